//! The command-line program.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: bicl::device::SayingAllocator = bicl::device::SayingAllocator;

fn main() -> ExitCode {
    bicl::cli::main()
}
