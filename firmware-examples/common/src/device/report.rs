//! Lines of text on the host's console, without the formatting machinery of `core`.

/// Writes `name value` as a line.
pub fn report(name: &str, value: u32) {
    let mut text = [0; 10];
    let mut rest = value;
    let mut start = text.len();
    loop {
        start -= 1;
        text[start] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    line(&[name.as_bytes(), b" ", &text[start..]]);
}

/// Writes a line of several parts.
pub(crate) fn line(parts: &[&[u8]]) {
    if let Ok(mut out) = semihosting::io::stdout() {
        use semihosting::io::Write;
        for part in parts.iter().chain([&&b"\n"[..]]) {
            // There is nobody to tell that nobody hears.
            let _ = out.write_all(part);
        }
    }
}

/// The console for formatted text.
pub struct Console;

impl core::fmt::Write for Console {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        semihosting::print!("{text}");
        Ok(())
    }
}
