//! The C library that the program runs with.

/// Its version, `2.36`; `None` where it is not glibc.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn glibc_version() -> Option<String> {
    use std::ffi::{CStr, c_char};

    unsafe extern "C" {
        fn gnu_get_libc_version() -> *const c_char;
    }
    // SAFETY: glibc has the function; it returns a literal.
    let version = unsafe { CStr::from_ptr(gnu_get_libc_version()) };
    version.to_str().ok().map(str::to_owned)
}

/// `None`: it is not glibc.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn glibc_version() -> Option<String> {
    None
}
