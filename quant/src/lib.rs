//! Imports Mamba-family checkpoints, quantizes them and writes `.sarit` model files.
//!
//! [`convert`] does all of it: a [`checkpoint`] is opened, the importer of its family describes the model as a
//! [`recipe`] (plan records, and where each tensor's numbers come from), and the writer takes the tensors through
//! memory a few rows at a time.
#![forbid(unsafe_code)]

pub mod atomic;
pub mod checkpoint;
mod convert;
mod import;
pub mod quantize;
pub mod recipe;
mod write;

pub use convert::{ConvertError, Options, Progress, Report, TensorReport, convert};
pub use import::{FAMILIES, ImportError};
