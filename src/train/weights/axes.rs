//! The order of a filter's axes: `[K,C,R,S]` in other programs, `[K,R,S,C]` here.

/// The permutation of a filter's axes; `from` gives the source axis of each target axis.
pub(super) fn permute(values: &[f32], shape: [usize; 4], from: [usize; 4]) -> Vec<f32> {
    let strides = [shape[1] * shape[2] * shape[3], shape[2] * shape[3], shape[3], 1];
    let extent = from.map(|axis| shape[axis]);
    let stride = from.map(|axis| strides[axis]);
    let mut permuted = Vec::with_capacity(values.len());
    for a in 0..extent[0] {
        for b in 0..extent[1] {
            for c in 0..extent[2] {
                permuted.extend(
                    (0..extent[3]).map(|d| values[a * stride[0] + b * stride[1] + c * stride[2] + d * stride[3]]),
                );
            }
        }
    }
    permuted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permuting_there_and_back_is_the_identity() {
        let values: Vec<f32> = (0..2 * 3 * 4 * 5).map(|x| x as f32).collect();
        let torch = permute(&values, [2, 3, 4, 5], [0, 3, 1, 2]);
        assert_eq!(torch[1], values[5], "the next column of the filter is 5 channels on");
        assert_eq!(permute(&torch, [2, 5, 3, 4], [0, 2, 3, 1]), values);
    }
}
