// Where the operands of conv_mma.cuh come from: walks say which K tile is next, loaders copy it to shared memory.
//
// A loader has a Tile, which says how it lies there, and fetch(tile, walk), which starts the copies of a K tile.
#pragma once
#include "conv_mma.cuh"

// The place of a K tile: a tap and its channels from `channel` on.
template <class T>
struct TapWalk {
  int rows, columns, channels;
  int row = 0, column = 0, channel = 0;

  __device__ TapWalk(const Gather& g) : rows(g.taps[0]), columns(g.taps[1]), channels(g.c) {}
  __device__ int k_tiles() const { return rows * columns * ((channels + MMA_K_TILE<T> - 1) / MMA_K_TILE<T>); }
  __device__ __forceinline__ void next() {
    channel += MMA_K_TILE<T>;
    if (channel < channels) return;
    channel = 0;
    if (++column == columns) column = 0, row++;
  }
};

// The place of a K tile: pixels from `from` on, up to `to`.
template <class T>
struct PixelWalk {
  int from, to;

  __device__ int k_tiles() const { return (to - from + MMA_K_TILE<T> - 1) / MMA_K_TILE<T>; }
  __device__ __forceinline__ void next() { from += MMA_K_TILE<T>; }
};

// What loaders of deep tiles share: four threads take a line.
template <class T, int EXTENT>
struct DeepLoader {
  using Tile = DeepTile<T>;
  static constexpr int LINES = MMA_THREADS / 4, PASSES = EXTENT / LINES;
  static_assert(PASSES * LINES == EXTENT, "the threads share the tile evenly");
  int line = threadIdx.x >> 2, chunk = threadIdx.x & 3;

  __device__ __forceinline__ void copy(char* tile, int pass, const T* from, bool inside) const {
    cp_async16(tile + Tile::at(line + pass * LINES, chunk), from, inside ? 16 : 0);
  }
};

// What loaders of flat tiles share.
template <class T, int EXTENT>
struct FlatLoader {
  using Tile = FlatTile<T, EXTENT>;
  static constexpr int CHUNKS = EXTENT / CHUNK<T>, LINES = MMA_THREADS / CHUNKS, PASSES = MMA_K_TILE<T> / LINES;
  static_assert(PASSES * LINES == MMA_K_TILE<T>, "the threads share the tile evenly");
  int line = threadIdx.x / CHUNKS, chunk = threadIdx.x % CHUNKS;

  __device__ __forceinline__ void copy(char* tile, int pass, const T* from, bool inside) const {
    cp_async16(tile + Tile::at(line + pass * LINES, chunk), from, inside ? 16 : 0);
  }
};

// Gathered pixels by tap and channel: x in the forward pass, dy in the data gradient.
template <class T, int EXTENT>
struct GatheredPixels : DeepLoader<T, EXTENT> {
  using Base = DeepLoader<T, EXTENT>;
  const T* loads;
  const Gather& g;
  int y[Base::PASSES], x[Base::PASSES], offset[Base::PASSES];

  __device__ GatheredPixels(const T* loads, const Gather& g, int start) : loads(loads), g(g) {
#pragma unroll
    for (int pass = 0; pass < Base::PASSES; pass++) {
      Pixel pixel = pixel_of(g, start + this->line + pass * Base::LINES);
      y[pass] = pixel.y, x[pass] = pixel.x;
      offset[pass] = pixel.y == OUTSIDE ? 0 : ((pixel.image * g.h + pixel.y) * g.w + pixel.x) * g.c;
    }
  }

  __device__ __forceinline__ void fetch(char* tile, const TapWalk<T>& walk) {
    int down = walk.row * g.distance[0], across = walk.column * g.distance[1];
    int channel = walk.channel + this->chunk * CHUNK<T>, shift = (down * g.w + across) * g.c + channel;
#pragma unroll
    for (int pass = 0; pass < Base::PASSES; pass++) {
      bool rows = static_cast<unsigned>(y[pass] + down) < static_cast<unsigned>(g.h);
      bool columns = static_cast<unsigned>(x[pass] + across) < static_cast<unsigned>(g.w);
      bool inside = rows && columns && channel < g.c;
      this->copy(tile, pass, loads + (inside ? offset[pass] + shift : 0), inside);
    }
  }
};

// The filter by tap and input channel, a line for each filter: the forward pass.
template <class T, int EXTENT>
struct FilterRows : DeepLoader<T, EXTENT> {
  using Base = DeepLoader<T, EXTENT>;
  const T* w;
  const ConvProblem& p;
  int start;

  __device__ FilterRows(const T* w, const ConvProblem& p, int start) : w(w), p(p), start(start + this->line) {}

  __device__ __forceinline__ void fetch(char* tile, const TapWalk<T>& walk) {
    int channel = walk.channel + this->chunk * CHUNK<T>, shift = (walk.row * p.s + walk.column) * p.c + channel;
#pragma unroll
    for (int pass = 0; pass < Base::PASSES; pass++) {
      int k = start + pass * Base::LINES;
      bool inside = k < p.k && channel < p.c;
      this->copy(tile, pass, w + (inside ? k * p.taps() * p.c + shift : 0), inside);
    }
  }
};

// The filter by tap and output channel, a line for each of those: the data gradient.
template <class T, int EXTENT>
struct FilterLines : FlatLoader<T, EXTENT> {
  using Base = FlatLoader<T, EXTENT>;
  const T* w;
  const ConvProblem& p;
  const Phase& phase;
  int column;

  __device__ FilterLines(const T* w, const ConvProblem& p, const Phase& phase, int start)
      : w(w), p(p), phase(phase), column(start + this->chunk * CHUNK<T>) {}

  __device__ __forceinline__ void fetch(char* tile, const TapWalk<T>& walk) {
    int tap = phase.tap(p, walk.row, walk.column);
#pragma unroll
    for (int pass = 0; pass < Base::PASSES; pass++) {
      int k = walk.channel + this->line + pass * Base::LINES;
      bool inside = k < p.k && column < p.c;
      this->copy(tile, pass, w + (inside ? (k * p.taps() + tap) * p.c + column : 0), inside);
    }
  }
};

// The output's gradient, a line for each pixel, which has `pitch` channels: the weight gradient of `count` of them.
template <class T, int EXTENT>
struct GradientLines : FlatLoader<T, EXTENT> {
  using Base = FlatLoader<T, EXTENT>;
  const T* dy;
  int pitch, count, column;

  __device__ GradientLines(const T* dy, int pitch, int count, int start)
      : dy(dy), pitch(pitch), count(count), column(start + this->chunk * CHUNK<T>) {}

  __device__ __forceinline__ void fetch(char* tile, const PixelWalk<T>& walk) {
#pragma unroll
    for (int pass = 0; pass < Base::PASSES; pass++) {
      int pixel = walk.from + this->line + pass * Base::LINES;
      bool inside = pixel < walk.to && column < count;
      this->copy(tile, pass, dy + (inside ? pixel * pitch + column : 0), inside);
    }
  }
};

// The input's pixels under a tap, a line for each output pixel: the weight gradient. A thread keeps its tap and
// channels.
template <class T, int EXTENT>
struct GatheredLines : FlatLoader<T, EXTENT> {
  using Base = FlatLoader<T, EXTENT>;
  const T* x;
  const Gather& g;
  int down, across, channel;  // of the tap
  bool some;                  // the column is one of the filter's
  int image[Base::PASSES], row[Base::PASSES], column[Base::PASSES];

  __device__ GatheredLines(const T* x, const Gather& g, int start, int first) : x(x), g(g) {
    int at = start + this->chunk * CHUNK<T>, tap = at / g.c;
    some = at < g.depth();
    channel = at - tap * g.c;
    down = tap / g.taps[1] * g.distance[0] + g.origin[0];
    across = tap % g.taps[1] * g.distance[1] + g.origin[1];
#pragma unroll
    for (int pass = 0; pass < Base::PASSES; pass++) {
      int pixel = first + this->line + pass * Base::LINES, line = pixel / g.columns;
      image[pass] = line / g.rows;
      row[pass] = line - image[pass] * g.rows;
      column[pass] = pixel - line * g.columns;
    }
  }

  __device__ __forceinline__ void fetch(char* tile, const PixelWalk<T>& walk) {
#pragma unroll
    for (int pass = 0; pass < Base::PASSES; pass++) {
      int i = row[pass] * g.step[0] + down, j = column[pass] * g.step[1] + across;
      bool rows = static_cast<unsigned>(i) < static_cast<unsigned>(g.h);
      bool columns = static_cast<unsigned>(j) < static_cast<unsigned>(g.w);
      bool inside = rows && columns && some && walk.from + this->line + pass * Base::LINES < walk.to;
      this->copy(tile, pass, x + (inside ? ((image[pass] * g.h + i) * g.w + j) * g.c + channel : 0), inside);
      // Without a division: a K tile further on is at most one row further where rows are longer than K tiles.
      column[pass] += MMA_K_TILE<T>;
      while (column[pass] >= g.columns) {
        column[pass] -= g.columns;
        if (++row[pass] == g.rows) row[pass] = 0, image[pass]++;
      }
    }
  }
};
