//! No panic leaves the library. None is expected either: models are checked once, and then nothing in a step can fail.

use crate::status::{SaritOk, Status};

/// Runs the body of a function.
#[cfg(feature = "hosted")]
pub(crate) fn guard(body: impl FnOnce() -> Result<(), Status>) -> Status {
    // What the body was changing is not looked at again: the status says that it has to be initialized anew.
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
    status(caught.unwrap_or(Err(Status::SaritInternal)))
}

/// Runs the body of a function.
#[cfg(not(feature = "hosted"))]
pub(crate) fn guard(body: impl FnOnce() -> Result<(), Status>) -> Status {
    status(body())
}

fn status(result: Result<(), Status>) -> Status {
    match result {
        Ok(()) => SaritOk,
        Err(status) => status,
    }
}

/// Where there is nothing to unwind to, a panic stops the machine. It says nothing, so that no text of panics has to be
/// in flash.
#[cfg(not(feature = "hosted"))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {
        core::hint::spin_loop();
    }
}
