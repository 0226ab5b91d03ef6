//! Rows of numbers out of CSV text, line by line, as the lines arrive.

use crate::args::Columns;
use crate::session::Meta;
use anyhow::{Context, Result, anyhow, bail, ensure};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::time::Instant;

/// The longest line, in bytes.
const LINE_LIMIT: u64 = 1 << 20;

/// One row of numbers, as the model takes them.
pub(crate) struct Row {
    /// Line in the text, from 1.
    pub(crate) line: u64,
    /// The frame.
    pub(crate) frame: Vec<f32>,
    /// Seconds, if there is a time column.
    pub(crate) time: Option<f64>,
    /// What stands in the key columns, in the order asked for.
    pub(crate) keys: Vec<String>,
}

/// Rows of one file or of standard input.
pub(crate) struct Rows {
    name: String,
    input: Box<dyn BufRead>,
    /// Number of the line that was read last, and when it was there.
    line: u64,
    arrived: Instant,
    text: Vec<u8>,
    /// Fields of the first line if that has numbers: the first row.
    first: Option<Vec<String>>,
    /// Fields of a line.
    width: usize,
    /// Which of them make a frame.
    frame: Vec<Field>,
    time: Option<Field>,
    keys: Vec<Field>,
}

/// A column that is read.
#[derive(Clone)]
struct Field {
    index: usize,
    name: String,
}

impl Rows {
    /// Opens the text and reads its first line, which says where the columns are: those of a frame of `frame_len` numbers,
    /// and `keys`, which are kept as text.
    pub(crate) fn open(
        csv: &Path,
        columns: &Columns,
        keys: &[&str],
        meta: &Meta,
        frame_len: usize,
    ) -> Result<Self> {
        let (name, input): (_, Box<dyn BufRead>) = if csv == Path::new("-") {
            ("standard input".to_owned(), Box::new(BufReader::new(std::io::stdin())))
        } else {
            let name = csv.display().to_string();
            let file = File::open(csv).with_context(|| format!("cannot open {name}"))?;
            (name, Box::new(BufReader::new(file)))
        };
        let mut rows = Self {
            name,
            input,
            line: 0,
            arrived: Instant::now(),
            text: Vec::new(),
            first: None,
            width: 0,
            frame: Vec::new(),
            time: None,
            keys: Vec::new(),
        };
        let first = rows.fields()?.with_context(|| {
            format!(
                "{} is empty; a row of {frame_len} numbers, or a line with their names, was expected",
                rows.name
            )
        })?;
        let first = first.with_context(|| rows.place())?;
        rows.width = first.len();
        let names = first.iter().all(|field| field.parse::<f64>().is_err()).then_some(&first);
        let column = |name: &str| rows.column(name, names).with_context(|| rows.place());
        let keys: Vec<Field> = keys.iter().map(|name| column(name)).collect::<Result<_>>()?;
        let time = columns.time_column.as_deref().map(column).transpose()?;
        let wanted = columns.columns.as_ref().or(meta.columns.as_ref().filter(|_| names.is_some()));
        let frame: Vec<Field> = match wanted {
            Some(wanted) => wanted.iter().map(|name| column(name)).collect::<Result<_>>()?,
            None => {
                let name = |i: usize| names.map_or_else(|| (i + 1).to_string(), |names| names[i].clone());
                let other = |i: &usize| keys.iter().chain(&time).all(|field| field.index != *i);
                let all = (0..rows.width).filter(other);
                all.map(|index| Field { index, name: name(index) }).collect()
            }
        };
        ensure!(
            frame.len() == frame_len,
            "{}: {frame_len} columns were expected, as a frame of the model has, but there are {}; name those to \
             take with --columns",
            rows.place(),
            frame.len()
        );
        rows.first = names.is_none().then_some(first);
        (rows.frame, rows.time, rows.keys) = (frame, time, keys);
        Ok(rows)
    }

    /// Where the last line stands.
    pub(crate) fn place(&self) -> String {
        format!("{}, line {}", self.name, self.line)
    }

    /// When the last line was there.
    pub(crate) fn arrived(&self) -> Instant {
        self.arrived
    }

    /// The next row, or why it cannot be used; `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Result<Row>>> {
        let fields = match self.first.take() {
            Some(fields) => Some(Ok(fields)),
            None => self.fields()?,
        };
        Ok(fields.map(|fields| self.row(&fields?)))
    }

    fn row(&self, fields: &[String]) -> Result<Row> {
        let (have, need) = (fields.len(), self.width);
        ensure!(have == need, "{need} fields were expected, as in the first line, but there are {have}");
        let number = |field: &Field| -> Result<f64> {
            let (text, name) = (&fields[field.index], &field.name);
            let number = text.parse::<f64>().ok().filter(|x| x.is_finite());
            number.ok_or_else(|| anyhow!("a number was expected in column {name}, but there is {text:?}"))
        };
        let frame = self.frame.iter().map(|field| {
            let x = number(field)? as f32;
            ensure!(x.is_finite(), "the number in column {} is too large", field.name);
            Ok(x)
        });
        Ok(Row {
            line: self.line,
            frame: frame.collect::<Result<_>>()?,
            time: self.time.as_ref().map(number).transpose()?,
            keys: self.keys.iter().map(|field| fields[field.index].clone()).collect(),
        })
    }

    /// A column by its name, or by its number where there are no names.
    fn column(&self, wanted: &str, names: Option<&Vec<String>>) -> Result<Field> {
        let Some(names) = names else {
            let number = wanted.parse().ok().filter(|n| (1..=self.width).contains(n));
            let number = number.with_context(|| {
                format!(
                    "a line with the name of column {wanted:?} was expected, but there are numbers; columns \
                     without names are given by numbers from 1 to {}",
                    self.width
                )
            })?;
            return Ok(Field { index: number - 1, name: wanted.to_owned() });
        };
        let mut found = names.iter().enumerate().filter(|(_, name)| *name == wanted);
        let Some((index, _)) = found.next() else {
            bail!("a column {wanted:?} was expected, but the columns are {}", names.join(", "));
        };
        ensure!(found.next().is_none(), "two columns are called {wanted:?}");
        Ok(Field { index, name: wanted.to_owned() })
    }

    /// Fields of the next line that is not blank, without blanks around them, or why it is no row.
    fn fields(&mut self) -> Result<Option<Result<Vec<String>>>> {
        loop {
            self.text.clear();
            let mut line = (&mut self.input).take(LINE_LIMIT + 1);
            line.read_until(b'\n', &mut self.text).with_context(|| format!("cannot read {}", self.name))?;
            if self.text.is_empty() {
                return Ok(None);
            }
            (self.line, self.arrived) = (self.line + 1, Instant::now());
            ensure!(
                self.text.len() as u64 <= LINE_LIMIT,
                "{}: the line has more than {LINE_LIMIT} bytes; numbers separated by commas were expected",
                self.place()
            );
            let text = self.text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&self.text);
            if text.trim_ascii().is_empty() {
                continue;
            }
            return Ok(Some(fields_of(text)));
        }
    }
}

/// Fields of one line, without blanks around them.
fn fields_of(line: &[u8]) -> Result<Vec<String>> {
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .trim(csv::Trim::All)
        .buffer_capacity(line.len())
        .from_reader(line);
    let mut record = csv::ByteRecord::new();
    reader.read_byte_record(&mut record)?;
    let fields = record.iter().map(|field| String::from_utf8_lossy(field).into_owned()).collect();
    // To the CSV reader a carriage return alone ends a row.
    let ends_once = !reader.read_byte_record(&mut record)?;
    ensure!(ends_once, "a carriage return stands in the middle of the line; end every row with a newline");
    Ok(fields)
}
