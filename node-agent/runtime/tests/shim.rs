//! A program that is nothing but a shim: what the tests give as [`weir_runtime::Config::agent_exe`].

fn main() {
    weir_runtime::shim::dispatch();
}
