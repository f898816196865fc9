//! The shortest PID 1 there can be: says when it began, on the kernel's clock, and sleeps. Built by `kernel.rs`.

fn main() {
    // `Instant` is CLOCK_MONOTONIC, which starts with the kernel; how it prints is the only way std shows it.
    println!("trivial init: {:?}", std::time::Instant::now());
    loop {
        std::thread::park();
    }
}
