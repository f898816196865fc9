//! The end of the machine.

use std::thread::sleep;
use std::time::Duration;

use nix::sys::reboot::{RebootMode, reboot, set_cad_enabled};

use super::kmsg::{Kmsg, NOTICE};
use crate::supervisor::Ending;

/// Ctrl-Alt-Del becomes SIGINT to PID 1 instead of an immediate restart.
pub fn catch_ctrl_alt_del() {
    // Refused only in a container, where there is no such key.
    let _ = set_cad_enabled(false);
}

/// Ends the machine. Should the kernel refuse, it is asked again, for ever: the hardware watchdog, which nobody pets
/// here, is then the end.
pub fn finish(ending: Ending, kmsg: &Kmsg) -> ! {
    let (words, mode) = match ending {
        Ending::Reboot => ("init: restart", RebootMode::RB_AUTOBOOT),
        Ending::PowerOff => ("init: power off", RebootMode::RB_POWER_OFF),
    };
    kmsg.say(NOTICE, words);
    loop {
        let Err(error) = reboot(mode);
        kmsg.say(3, &format!("{words}: {error}; trying again"));
        sleep(Duration::from_secs(1));
    }
}
