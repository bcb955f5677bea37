//! Tensor maps, as the driver encodes them.

use std::{
    collections::HashMap,
    ptr,
    sync::{Mutex, PoisonError},
};

use cudarc::driver::sys;

use super::{CudaDevice, failed};
use crate::{
    Result,
    device::tensor_map::{MapAccess, MapSpec, TensorMap},
};

/// Maps kept at most. A step has some hundreds of tensors; only what changes its shapes all the time meets more.
const MOST: usize = 4096;

/// The maps made so far, by spec and address. They hold no memory: a map of an address that was freed is as good again once
/// another tensor lies there.
#[derive(Default)]
pub(super) struct Maps(Mutex<Known>);

#[derive(Default)]
struct Known {
    by_spec: HashMap<MapSpec, HashMap<usize, TensorMap>>,
    count: usize,
}

impl Known {
    fn get(&self, address: usize, spec: &MapSpec) -> Option<TensorMap> {
        self.by_spec.get(spec)?.get(&address).copied()
    }

    fn put(&mut self, address: usize, spec: &MapSpec, map: TensorMap) {
        if self.count >= MOST {
            *self = Self::default();
        }
        if self.by_spec.entry(spec.clone()).or_default().insert(address, map).is_none() {
            self.count += 1;
        }
    }
}

impl CudaDevice {
    /// The map of what lies at `address`.
    ///
    /// Errors: a spec that does not pass its check; a driver that knows no such maps, or refuses this one.
    pub(in crate::device) fn tensor_map(&self, address: usize, spec: &MapSpec) -> Result<TensorMap> {
        let mut known = self.maps.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(map) = known.get(address, spec) {
            return Ok(map);
        }
        spec.check("tensor map")?;
        self.bind()?;
        let map = encode(address, spec)?;
        known.put(address, spec, map);
        Ok(map)
    }
}

/// `spec` has passed its check.
fn encode(address: usize, spec: &MapSpec) -> Result<TensorMap> {
    // The driver wants 64 bytes of alignment, which its own type has.
    let mut map = sys::CUtensorMap { opaque: [0; 16] };
    let element = match spec.element {
        2 => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
        _ => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
    };
    let rank = spec.extents.len() as u32;
    let base = ptr::with_exposed_provenance_mut(address);
    let (extents, strides) = (spec.extents.as_ptr(), spec.strides.as_ptr());
    let interleave = sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE;
    let swizzle = match spec.swizzled {
        true => sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
        false => sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_NONE,
    };
    let promotion = sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B;
    let outside = sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE;
    let mut steps = [1u32; 5];
    match &spec.access {
        MapAccess::Tiled { extents: tile } => {
            let (tile, steps) = (tile.as_ptr(), steps.as_ptr());
            // SAFETY: the lists have `rank` entries (strides one fewer), by the check, and are only read; the map is written.
            // The address is not followed.
            let code = unsafe {
                sys::cuTensorMapEncodeTiled(
                    &mut map, element, rank, base, extents, strides, tile, steps, interleave, swizzle, promotion,
                    outside,
                )
            };
            code.result().map_err(failed("cuTensorMapEncodeTiled"))?;
        }
        MapAccess::Im2col { lower, upper, channels, pixels, step } => {
            steps[1..3].copy_from_slice(step);
            let (lower, upper, steps) = (lower.as_ptr(), upper.as_ptr(), steps.as_ptr());
            // SAFETY: as above, and the corners have two entries, as rank 4 wants them.
            let code = unsafe {
                sys::cuTensorMapEncodeIm2col(
                    &mut map, element, rank, base, extents, strides, lower, upper, *channels, *pixels, steps,
                    interleave, swizzle, promotion, outside,
                )
            };
            code.result().map_err(failed("cuTensorMapEncodeIm2col"))?;
        }
    }
    Ok(TensorMap::new(bytemuck::cast(map.opaque)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_known_by_address_and_spec_and_never_too_many() {
        let spec = |line| MapSpec {
            element: 2,
            extents: vec![64, line],
            strides: vec![128],
            access: MapAccess::Tiled { extents: vec![64, 1] },
            swizzled: false,
        };
        let map = |byte| TensorMap::new([byte; TensorMap::BYTES]);
        let mut known = Known::default();
        known.put(16, &spec(1), map(1));
        known.put(32, &spec(1), map(2));
        known.put(16, &spec(2), map(3));
        assert_eq!(known.get(16, &spec(1)), Some(map(1)));
        assert_eq!(known.get(32, &spec(1)), Some(map(2)));
        assert_eq!(known.get(16, &spec(2)), Some(map(3)));
        assert_eq!(known.get(32, &spec(2)), None);
        for i in 0..2 * MOST {
            known.put(64 + i, &spec(1), map(4));
            assert!(known.by_spec.values().map(HashMap::len).sum::<usize>() <= MOST);
        }
        assert_eq!(known.get(64 + 2 * MOST - 1, &spec(1)), Some(map(4)), "the latest is there");
    }
}
