//! A convolution as implicit GEMMs.

use super::ConvProblem;

/// The three GEMMs of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// y: pixels of the output by filters.
    Forward,
    /// dx: pixels of the input (of one phase) by input channels.
    DataGradient,
    /// dw: filters by taps and input channels, summed over the output's pixels.
    WeightGradient,
}

impl Direction {
    #[cfg(test)]
    pub const ALL: [Self; 3] = [Self::Forward, Self::DataGradient, Self::WeightGradient];
}

/// M and N.
pub(super) fn extents(direction: Direction, params: &ConvProblem) -> (usize, usize) {
    let ([n, h, w, c], [k, r, s, _], [_, p, q, _]) = (params.input(), params.filter(), params.output());
    let [down, across] = params.stride.map(|stride| stride as usize);
    match direction {
        Direction::Forward => (n * p * q, k),
        // Of the largest phase.
        Direction::DataGradient => (n * h.div_ceil(down) * w.div_ceil(across), c),
        Direction::WeightGradient => (k, r * s * c),
    }
}
