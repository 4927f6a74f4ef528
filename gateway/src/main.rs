//! The `tianyu` command: arguments, configuration, signals; the work is in the library.

mod cli;

use clap::Parser as _;

fn main() -> std::process::ExitCode {
    cli::main(cli::Arguments::parse())
}
