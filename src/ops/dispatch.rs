//! Where an operation runs.

/// Runs what fits a tensor's device and dtype: `kernels` for f32, f64 and bf16; on the CPU `cpu`, for f32 and f64, and `bf16`,
/// which converts there and back. `T` is the element type. Without `bf16`, `cpu` is for all three. The dtype is that of the
/// tensor unless another follows it.
///
/// Errors: a dtype that is none of these.
macro_rules! dispatch {
    ($x:expr, $op:expr, $t:ident => { $($arms:tt)* }) => {
        dispatch!($x, $x.dtype(), $op, $t => { $($arms)* })
    };
    ($x:expr, $dtype:expr, $op:expr, $t:ident => {
        kernels => $kernels:expr, bf16 => $bf16:expr, cpu => $cpu:expr $(,)?
    }) => {
        if !$x.device().is_cpu() {
            $crate::with_float!($dtype, $op, $t => $kernels)
        } else if $dtype == $crate::DType::Bf16 {
            $bf16
        } else {
            $crate::with_real!($dtype, $op, $t => $cpu)
        }
    };
    ($x:expr, $dtype:expr, $op:expr, $t:ident => { kernels => $kernels:expr, cpu => $cpu:expr $(,)? }) => {
        if $x.device().is_cpu() {
            $crate::with_float!($dtype, $op, $t => $cpu)
        } else {
            $crate::with_float!($dtype, $op, $t => $kernels)
        }
    };
}
