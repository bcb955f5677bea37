//! What the emulator promises, on kernels of its own (tests/kernels), in one binary.

mod common;

mod banks;
mod barriers;
mod cluster;
mod faults;
mod hopper;
mod hopper_faults;
mod language;
