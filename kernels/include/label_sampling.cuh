// Where feature pixels read their labels: src/ops/label_sampling.rs.
//   each = 0    by the nearest-neighbour rule: a label pixel (y, x) belongs to cell (floor(y height / rows),
//               floor(x width / columns)); the label of a cell is the one at (floor(i rows / height), floor(j columns /
//               width))
//   each > 0    where align_corners upsampling puts the cells: each x each places a cell; the label of a cell is the
//               one at its middle
// A label that is 255, or lies outside the image, is replaced by the dynamic one of its cell where there are dynamic
// labels.
#pragma once
#include "dev.cuh"

struct LabelSampling {
  int rows, columns;  // of the labels
  int height, width;  // of the feature map
  int each;
};
static_assert(sizeof(LabelSampling) == 20, "as in src/ops/label_sampling.rs");

constexpr int NO_LABEL = 255;

// The place of position q of `cells * each` along `full` pixels; below 0 or not below `full` where it lies outside.
__device__ __forceinline__ int place_of(int q, int cells, int each, int full) {
  if (cells == 1) return static_cast<int>((2LL * q + 1) * full / (2 * each));
  // (2 q + 1 - each) / (2 each) cells from the first, (full - 1) / (cells - 1) pixels a cell, rounded to the nearest.
  long long half = static_cast<long long>(each) * (cells - 1);
  long long at = (2LL * q + 1 - each) * (full - 1) + half;
  return at < 0 ? -1 : static_cast<int>(at / (2 * half));
}

// Position `i` of `from` along `to`: floor(i to / from).
__device__ __forceinline__ int nearest_of(int i, int from, int to) {
  return static_cast<int>(static_cast<long long>(i) * to / from);
}

// The first of `full` positions that belongs to `cell` of `cells` or a later one.
__device__ __forceinline__ int first_of_cell(int cell, int cells, int full) {
  return static_cast<int>((static_cast<long long>(cell) * full + cells - 1) / cells);
}

// The label at place (y, x) of `each` a cell of one image; 255 outside.
__device__ __forceinline__ int label_at_place(const uint8_t* labels, const LabelSampling& g, int y, int x, int each) {
  int row = place_of(y, g.height, each, g.rows), column = place_of(x, g.width, each, g.columns);
  bool inside = row >= 0 && row < g.rows && column >= 0 && column < g.columns;
  return inside ? labels[static_cast<size_t>(row) * g.columns + column] : NO_LABEL;
}

// The one label of a cell, of one image's labels [rows, columns] and dynamic labels [height, width] or null.
__device__ __forceinline__ int label_of_cell(const uint8_t* labels, const uint8_t* dynamic, const LabelSampling& g,
                                             int cell) {
  int i = cell / g.width, j = cell % g.width, label;
  if (g.each > 0) {
    label = label_at_place(labels, g, i, j, 1);
  } else {
    int row = nearest_of(i, g.height, g.rows), column = nearest_of(j, g.width, g.columns);
    label = labels[static_cast<size_t>(row) * g.columns + column];
    // The cell to which that label pixel belongs: this one, or where the extents do not divide the one before.
    cell = nearest_of(row, g.rows, g.height) * g.width + nearest_of(column, g.columns, g.width);
  }
  return label == NO_LABEL && dynamic ? dynamic[cell] : label;
}

// All label pixels of a cell.
struct LabelsOfCell {
  int top, left, across, count;
  __device__ __forceinline__ LabelsOfCell(const LabelSampling& g, int cell) {
    int i = cell / g.width, j = cell % g.width;
    int rows = g.each > 0 ? g.height * g.each : g.rows, columns = g.each > 0 ? g.width * g.each : g.columns;
    top = first_of_cell(i, g.height, rows), left = first_of_cell(j, g.width, columns);
    across = first_of_cell(j + 1, g.width, columns) - left;
    count = (first_of_cell(i + 1, g.height, rows) - top) * across;
  }
  // Label q < count of the cell, of one image's labels.
  __device__ __forceinline__ int label(const uint8_t* labels, const LabelSampling& g, int q) const {
    int y = top + q / across, x = left + q % across;
    return g.each > 0 ? label_at_place(labels, g, y, x, g.each) : labels[static_cast<size_t>(y) * g.columns + x];
  }
};
