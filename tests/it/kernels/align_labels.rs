//! Labels at the places of a feature map's cells.

use crate::common::{Rng, all_devices, assert_same_bits, kernel_devices, wide};
use bicl::{DType, Device, Tensor, ops};

#[test]
fn cells_lie_where_the_upsampling_puts_them() {
    for device in all_devices() {
        let row = |labels: &[u8], cells: usize, each: usize| {
            let labels = Tensor::from_vec(labels.to_vec(), &[1, 1, labels.len()], &device).unwrap();
            let aligned = ops::align_labels(&labels, 1, cells, each).unwrap();
            assert_eq!(aligned.shape(), [1, each, cells * each]);
            aligned.to_vec::<u8>().unwrap()[..cells * each].to_vec()
        };
        // Corners on corners, 4 pixels a cell.
        assert_eq!(row(&[0, 1, 2, 3, 4, 5, 6, 7, 8], 3, 1), [0, 4, 8]);
        // Places at -1.5, -0.5, 0.5, 1.5, .. of a cell's 4 pixels, half up; half a cell stands out on both sides.
        assert_eq!(row(&[0, 1, 2, 3, 4, 5, 6, 7, 8], 3, 4), [255, 0, 1, 2, 3, 4, 5, 6, 7, 8, 255, 255]);
        // A single cell has all of the image.
        assert_eq!(row(&[7, 8, 9], 1, 1), [8]);
        assert_eq!(row(&[7, 8, 9], 1, 3), [7, 8, 9]);
        // More cells than pixels.
        assert_eq!(row(&[3, 4], 3, 1), [3, 4, 4]);
        // The other rule reads further left.
        let labels = Tensor::from_vec((0..128).collect::<Vec<u8>>(), &[1, 1, 128], &device).unwrap();
        let last = |labels: Tensor| *labels.to_vec::<u8>().unwrap().last().unwrap();
        assert_eq!(last(ops::align_labels(&labels, 1, 17, 1).unwrap()), 127);
        assert_eq!(last(ops::resize_labels_nearest(&labels, 1, 17).unwrap()), 120);
    }
}

#[test]
fn kernels_match_the_cpu() {
    let mut rng = Rng(5);
    for ([n, rows, columns], [height, width], each) in
        [([2, 33, 47], [5, 6], 8), ([1, 1, 9], [1, 3], 5), ([3, 7, 7], [9, 1], 2), ([1, 128, 64], [17, 9], 1)]
    {
        let labels = rng.labels(&[n, rows, columns], 19, 4, &Device::cpu());
        let want = ops::align_labels(&labels, height, width, each).unwrap();
        assert!(wide(&want).iter().any(|&label| label < 19.0));
        for device in kernel_devices() {
            let got = ops::align_labels(&labels.to_device(&device).unwrap(), height, width, each).unwrap();
            assert_same_bits(&got, &want, "aligned labels");
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let device = Device::cpu();
    let labels = |shape: &[usize]| Tensor::zeros(shape, DType::U8, &device).unwrap();
    let refused = |labels: &Tensor, height, each, part: &str| {
        let error = ops::align_labels(labels, height, 2, each).unwrap_err().to_string();
        assert!(error.contains(part) && !error.contains('\n'), "{error}");
    };
    refused(&labels(&[2, 2]), 2, 1, "expected 3 dimensions");
    refused(&labels(&[1, 0, 2]), 2, 1, "no pixel to take");
    refused(&labels(&[1, 2, 2]), 2, 0, "0 places a cell");
    refused(&labels(&[1, 2, 2]), usize::MAX, 2, "too many");
    refused(&Tensor::zeros(&[1, 2, 2], DType::F32, &device).unwrap(), 2, 1, "u8");
    assert!(ops::align_labels(&labels(&[0, 0, 0]), 0, 3, 2).unwrap().is_empty());
}
