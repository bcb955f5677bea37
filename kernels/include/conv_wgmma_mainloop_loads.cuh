// Loads of the main loop of conv_wgmma.cuh: which boxes of which tensor maps make a K tile.
//
// The maps' boxes: pixels BM x 64 channels (im2col, or tiled where each pixel is its own window), the filter 64 x 1 x
// 64 in [k, r s, c], a gradient's lines 64 pixels x 64 channels.
#pragma once
#include "conv_gather.cuh"
#include "conv_wgmma.cuh"

// Pixels under a window whose taps lie `distance` apart; the first one of pixel (i, j) at (i, j) * step + origin.
struct Window {
  const CUtensorMap* map;
  bool pointwise;  // the window is the pixel, and the map has pixels in a row
  int images, rows, columns;
  int step[2], origin[2], distance[2];

  // Of a pixel: its number, and where it lies.
  struct Place {
    int pixel, image, row, column;
  };
  __device__ __forceinline__ Place place(int first) const {
    // A tile below the last one of a cluster has no pixel: any other one may be read for it.
    first = min(first, images * rows * columns - 1);
    int line = first / columns, image = line / rows;
    return {first, image, line - image * rows, first - line * columns};
  }
  // So many pixels on. Without a division, which would take the producer's one thread as long as the products of a K
  // tile.
  __device__ __forceinline__ void advance(Place& at, int by) const {
    at.pixel += by, at.column += by;
    while (at.column >= columns) {
      at.column -= columns;
      if (++at.row == rows) at.row = 0, at.image++;
    }
  }
  // Where the window of a pixel begins.
  __device__ __forceinline__ int y(const Place& at) const { return at.row * step[0] + origin[0]; }
  __device__ __forceinline__ int x(const Place& at) const { return at.column * step[1] + origin[1]; }
  // The pixels from `at` on under one tap, as many as the map says.
  __device__ __forceinline__ void fetch(char* to, uint64_t* bar, const Place& at, int channel, int row,
                                        int column) const {
    if (pointwise)
      tma_load_2d(to, map, bar, channel, at.pixel);
    else
      tma_load_im2col(to, map, bar, channel, x(at), y(at), at.image, column * distance[1], row * distance[0]);
  }
  // The same, multicast to all blocks in the mask.
  __device__ __forceinline__ void share(char* to, uint64_t* bar, const Place& at, int channel, int row, int column,
                                        int mask) const {
    if (pointwise)
      tma_share_2d(to, map, bar, channel, at.pixel, mask);
    else
      tma_share_im2col(to, map, bar, channel, x(at), y(at), at.image, column * distance[1], row * distance[0], mask);
  }
};

// Of the output's pixels, over x.
__device__ __forceinline__ Window window_of_output(const CUtensorMap* map, const ConvProblem& p) {
  Window w = {map, p.is_pointwise(), p.n, p.p, p.q, {}, {}, {}};
  for (int axis = 0; axis < 2; axis++)
    w.step[axis] = p.stride[axis], w.origin[axis] = -p.padding[axis], w.distance[axis] = p.dilation[axis];
  return w;
}

// Of the input's pixels, over dy, for stride 1: the taps in the order in which they hit, the last one first.
__device__ __forceinline__ Window window_of_input(const CUtensorMap* map, const ConvProblem& p) {
  Window w = {map, p.is_pointwise(), p.n, p.h, p.w, {1, 1}, {}, {p.dilation[0], p.dilation[1]}};
  w.origin[0] = p.padding[0] - (p.r - 1) * p.dilation[0], w.origin[1] = p.padding[1] - (p.s - 1) * p.dilation[1];
  return w;
}

// K tiles of a tap and 64 channels: the forward pass, and (FLIPPED) the data gradient, whose filter is read with its
// taps in reverse and with K and N exchanged.
template <class Tile, bool FLIPPED>
struct TapLoads {
  static constexpr bool STRIPS = Tile::CHUNKS > 1;
  Window window;
  const CUtensorMap* filter;
  int taps[2], channels, group;
  Cluster cluster;
  Window::Place place;
  int row, column, channel, start_n;
  bool strip;

  __device__ __forceinline__ void prefetch() const { tma_prefetch(window.map), tma_prefetch(filter); }
  __device__ __forceinline__ void begin(const WorkTile& tile) {
    place = window.place(tile.layer * group + tile.row * Tile::BM);
    strip = STRIPS && tile.strip >= 0;
    start_n = tile.column * Tile::BN + (strip ? tile.strip * 64 : 0);
    int each = (channels + WGMMA_K_TILE - 1) / WGMMA_K_TILE, tap = tile.from / each;
    channel = (tile.from - tap * each) * WGMMA_K_TILE;
    row = tap / taps[1], column = tap - row * taps[1];
  }
  __device__ __forceinline__ void fetch(char* to, uint64_t* bar) {
    window.fetch(to, bar, place, channel, row, column);
    to += Tile::A_BYTES;
    int tap = row * taps[1] + column;
    if (FLIPPED) tap = taps[0] * taps[1] - 1 - tap;
    // The filter's box from this column on.
    auto first = [&](int n) { return FLIPPED ? n : channel; };
    auto last = [&](int n) { return FLIPPED ? channel : n; };
    if (strip || cluster.size == 1) {
      for (int block = 0; block < (strip ? 1 : Tile::CHUNKS); block++) {
        int n = start_n + block * 64;
        tma_load_3d(to + block * BLOCK_BYTES, filter, bar, first(n), tap, last(n));
      }
    } else {
      for (int block = 0; block < Tile::CHUNKS; block++) {
        int n = start_n + block * 64;
        if (cluster.copies(block, Tile::CHUNKS))
          tma_share_3d(to + block * BLOCK_BYTES, filter, bar, first(n), tap, last(n), cluster.all());
      }
    }
    channel += WGMMA_K_TILE;
    if (channel < channels) return;
    channel = 0;
    if (++column == taps[1]) column = 0, row++;
  }
};

// Columns of a weight gradient, 64 at a time: those channels of a tap.
struct TapBlock {
  int row, column, channel;
};
__device__ __forceinline__ TapBlock tap_block(const ConvProblem& p, int block) {
  int each = (p.c + 63) / 64, tap = block / each, row = tap / p.s;
  return {row, tap - row * p.s, (block - tap * each) * 64};
}

// K tiles of 64 pixels: the weight gradient, both operands MN-major.
template <class Tile>
struct PixelLoads {
  static constexpr bool STRIPS = Tile::CHUNKS > 1;
  Window window;
  const CUtensorMap* gradient;
  const ConvProblem& p;
  Cluster cluster;
  Window::Place place;
  int start_m;
  bool strip;
  TapBlock blocks[Tile::CHUNKS];

  __device__ __forceinline__ void prefetch() const { tma_prefetch(window.map), tma_prefetch(gradient); }
  __device__ __forceinline__ void begin(const WorkTile& tile) {
    place = window.place(tile.from * WGMMA_K_TILE);
    start_m = tile.row * Tile::BM;
    strip = STRIPS && tile.strip >= 0;
    int last = p.r * p.s * ((p.c + 63) / 64) - 1;
    // Blocks beyond the last one load the same as it, and are not stored.
#pragma unroll
    for (int block = 0; block < Tile::CHUNKS; block++)
      blocks[block] = tap_block(p, min(tile.column * Tile::CHUNKS + (strip ? tile.strip : block), last));
  }
  __device__ __forceinline__ void fetch(char* to, uint64_t* bar) {
#pragma unroll
    for (int block = 0; block < Tile::BM / 64; block++)
      tma_load_2d(to + block * BLOCK_BYTES, gradient, bar, start_m + block * 64, place.pixel);
#pragma unroll
    for (int block = 0; block < Tile::CHUNKS; block++) {
      char* at = to + Tile::A_BYTES + block * BLOCK_BYTES;
      const TapBlock& from = blocks[block];
      if (strip && block > 0) break;
      if (strip || cluster.size == 1)
        window.fetch(at, bar, place, from.channel, from.row, from.column);
      else if (cluster.copies(block, Tile::CHUNKS))
        window.share(at, bar, place, from.channel, from.row, from.column, cluster.all());
    }
    window.advance(place, WGMMA_K_TILE);
  }
};
