//! Conversion between float types on the tape: y = x in another type.

use crate::{DType, Result, autograd::Var};

const OP: &str = "cast";

/// `x` converted to the float type `dtype`, rounded to nearest even; the gradient is converted back.
///
/// Errors: a type that is no float on either side.
pub fn cast(x: &Var, dtype: DType) -> Result<Var> {
    let source = x.value().dtype();
    if source == dtype && dtype.is_float() {
        return Ok(x.clone());
    }
    if !dtype.is_float() || !source.is_float() {
        let got = if dtype.is_float() { source } else { dtype };
        return Err(crate::Error::DType { op: OP, got, want: "a float type on both sides" });
    }
    Var::record(OP, x.value().to_dtype(dtype)?, [x], move |dy, _| Ok([Some(dy.to_dtype(source)?)]))
}
