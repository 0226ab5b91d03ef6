//! `sarit pull`: a checkpoint comes from the Hugging Face Hub.

mod checksum;
mod hub;
mod select;

use crate::args::Pull;
use crate::{convert, output};
use anyhow::{Context, Result, ensure};
use hub::Hub;
use indicatif::HumanBytes;
use sarit_quant::Options;
use serde::Serialize;
use std::fs;
use std::path::{Path, PathBuf};

#[derive(Serialize)]
struct Pulled {
    folder: PathBuf,
    /// The commit that the files are of.
    commit: String,
    files: Vec<hub::Fetched>,
    /// The model file, if one was asked for.
    model: Option<PathBuf>,
}

pub(crate) fn run(args: &Pull) -> Result<()> {
    let (_, name) =
        args.name.split_once('/').filter(|(owner, name)| plain(owner) && plain(name)).with_context(|| {
            format!("{:?} is no model's name; give OWNER/NAME, as state-spaces/mamba2-130m", args.name)
        })?;
    ensure!(
        args.revision.split('/').all(plain),
        "{:?} is no revision; give a branch, tag or commit",
        args.revision
    );
    let folder = args.output.clone().unwrap_or_else(|| PathBuf::from(name));
    let hub = Hub::new(&args.name, &args.revision, &folder)?;
    let wanted = select::files(hub.files(), args.gguf.as_deref())
        .with_context(|| format!("cannot take {} from {}", args.name, hub.endpoint()))?;
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let files = wanted.iter().map(|file| hub.fetch(file)).collect::<Result<Vec<_>>>()?;
    hub.tidy();

    let model = args.convert.map(|weights| {
        let out = folder.join(format!("{name}-{}.sarit", weights.name()));
        let source = wanted.iter().find(|file| file.ends_with(".gguf"));
        let source = source.map_or(folder.clone(), |file| folder.join(file));
        let report = convert::compile(&source, &out, &Options { weights, ..Options::default() })?;
        anyhow::Ok((out, report))
    });
    let model = model.transpose()?;
    if args.json {
        let (commit, model) = (hub.commit().to_owned(), model.map(|(out, _)| out));
        return output::print_json(&Pulled { folder, commit, files, model });
    }
    let listed = |file: &hub::Fetched| {
        let (size, there) = (HumanBytes(file.bytes), if file.fetched { "" } else { ", was there" });
        format!("{} ({size}{there})\n", folder.join(&file.name).display())
    };
    let listed: String = files.iter().map(listed).collect();
    let compiled = model.map_or_else(String::new, |(out, report)| convert::as_text(&out, &report));
    output::print(&(listed + &compiled))
}

/// Whether `name` can stand in an address and name a file.
fn plain(name: &str) -> bool {
    let letters = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    letters && !name.is_empty() && !name.starts_with('.')
}

/// Whether `name` names a file right in a folder.
fn plain_file(name: &str) -> bool {
    let path = Path::new(name);
    path.file_name().is_some_and(|file| file == path.as_os_str())
        && !name.starts_with('.')
        && !name.contains('\\')
}
