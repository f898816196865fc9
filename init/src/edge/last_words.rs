//! What PID 1 does when it has a bug after all.
//!
//! The hook writes message and place to the kernel's log, and so to every console. Then the process aborts (no
//! unwinding: `panic = "abort"`), which the kernel answers with a panic of its own: that is what makes it save its
//! log, our words included, to pstore, and restart the machine. Restarting from here would be quicker and would lose
//! the words.

use std::fs;
use std::panic::PanicHookInfo;

use super::kmsg::Kmsg;

/// Installs the hook.
pub fn install() {
    std::panic::set_hook(Box::new(|info| {
        let words = words(info);
        Kmsg::open().say(2, &words);
        eprintln!("{words}");
        // A kernel that was not told `panic=` would stand still for ever.
        if fs::read_to_string("/proc/sys/kernel/panic").is_ok_and(|seconds| seconds.trim() == "0") {
            let _ = fs::write("/proc/sys/kernel/panic", "10");
        }
    }));
}

fn words(info: &PanicHookInfo<'_>) -> String {
    let message = info.payload_as_str().unwrap_or("no message");
    match info.location() {
        Some(place) => format!("init: last words: {message} at {}:{}", place.file(), place.line()),
        None => format!("init: last words: {message}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_words_name_message_and_place() {
        let (send, receive) = std::sync::mpsc::channel();
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| drop(send.send(words(info)))));
        let outcome = std::thread::spawn(|| panic!("a {} thing", "bad")).join();
        std::panic::set_hook(before);
        assert!(outcome.is_err());
        let words = receive.recv().expect("the hook ran");
        assert!(
            words.starts_with("init: last words: a bad thing at ") && words.contains("last_words.rs:"),
            "{words}"
        );
    }
}
