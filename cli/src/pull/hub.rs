//! One repository of the Hub: what it holds, and its files one by one.

use super::checksum;
use crate::output;
use anyhow::{Context, Result, anyhow, ensure};
use hf_hub::api::sync::{Api, ApiBuilder, ApiError, ApiRepo, Metadata};
use hf_hub::api::{Progress, RepoInfo};
use hf_hub::{Cache, Repo, RepoType};
use indicatif::ProgressBar;
use serde::Serialize;
use std::env;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

const ENDPOINT: &str = "https://huggingface.co";
/// Where downloads that are not whole lie, in the folder that they are for.
const UNFINISHED: &str = ".sarit-pull";
/// Waits between the tries of a download that was cut.
const WAITS: [Duration; 3] = [Duration::from_millis(300), Duration::from_secs(1), Duration::from_secs(4)];

/// A repository at one commit.
pub(super) struct Hub {
    api: Api,
    repo: ApiRepo,
    place: Repo,
    /// As the user names it.
    name: String,
    endpoint: String,
    folder: PathBuf,
    cache: Cache,
    commit: String,
    files: Vec<String>,
}

/// A file that is in the folder now.
#[derive(Serialize)]
pub(super) struct Fetched {
    pub(super) name: String,
    pub(super) bytes: u64,
    /// False if it was there already.
    pub(super) fetched: bool,
}

impl Hub {
    /// Looks at `name` as it is at `revision`, to download into `folder`.
    pub(super) fn new(name: &str, revision: &str, folder: &Path) -> Result<Self> {
        let endpoint = env::var("HF_ENDPOINT").ok().filter(|endpoint| !endpoint.is_empty());
        let endpoint = endpoint.as_deref().unwrap_or(ENDPOINT).trim_end_matches('/').to_owned();
        let folder = std::path::absolute(folder).context("cannot find the current folder")?;
        let cache = Cache::new(folder.join(UNFINISHED));
        let api = ApiBuilder::from_cache(cache.clone())
            .with_endpoint(endpoint.clone())
            .with_token(token())
            .with_user_agent("sarit", env!("CARGO_PKG_VERSION"))
            .build()
            .context("cannot set up downloads")?;

        let asked = Repo::with_revision(name.to_owned(), RepoType::Model, revision.to_owned());
        let info = api.repo(asked).info();
        let RepoInfo { sha, siblings } =
            info.map_err(|error| refusal(error, &endpoint, &format!("model {name} at revision {revision}")))?;
        ensure!(super::plain(&sha), "{endpoint} names no commit of {name}; is it a Hub?");
        // From here on all is of this commit, whatever happens to the branch meanwhile.
        let place = Repo::with_revision(name.to_owned(), RepoType::Model, sha.clone());
        Ok(Self {
            repo: api.repo(place.clone()),
            api,
            place,
            name: name.to_owned(),
            endpoint,
            folder,
            cache,
            commit: sha,
            files: siblings.into_iter().map(|file| file.rfilename).collect(),
        })
    }

    pub(super) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    pub(super) fn commit(&self) -> &str {
        &self.commit
    }

    /// Paths of all files.
    pub(super) fn files(&self) -> &[String] {
        &self.files
    }

    /// Sees to it that `file` is in the folder, whole.
    pub(super) fn fetch(&self, file: &str) -> Result<Fetched> {
        let what = format!("{file} of {}", self.name);
        let refused = |error| refusal(error, &self.endpoint, &what);
        let metadata = self.api.metadata(&self.repo.url(file)).map_err(refused)?;
        let tag = metadata.etag().strip_prefix("W/").unwrap_or(metadata.etag());
        ensure!(super::plain(tag), "{} gives no usable tag for {what}; is it a Hub?", self.endpoint);
        let target = self.folder.join(file);
        let bytes = metadata.size() as u64;
        let local = |error: std::io::Error| anyhow!("cannot write {}: {error}", target.display());
        let fetched = !whole(&target, &metadata).map_err(local)?;
        if fetched {
            self.download(file, &metadata, &target, &what)?;
        }
        Ok(Fetched { name: file.to_owned(), bytes, fetched })
    }

    fn download(&self, file: &str, metadata: &Metadata, target: &Path, what: &str) -> Result<()> {
        let local = |error: std::io::Error| anyhow!("cannot write {}: {error}", target.display());
        let blob = self.cache.repo(self.place.clone()).blob_path(metadata.etag());
        let part = blob.with_extension("part");
        let taken = |arrived: &Path| take(arrived, metadata, target).map_err(local);
        let mut waits = WAITS.into_iter();
        // It is there if an earlier run was stopped while it was checked.
        if taken(&blob)? {
            return Ok(());
        }
        loop {
            // A part that is as long as the file was not renamed in time, or is of no use.
            if fs::metadata(&part).is_ok_and(|part| part.len() >= metadata.size() as u64) {
                if taken(&part)? {
                    return Ok(());
                }
                fs::remove_file(&part).map_err(local)?;
            }
            let bar = output::bar(metadata.size() as u64, file);
            let result = self.repo.download_with_progress(file, Shown(bar.clone()));
            bar.finish_and_clear();
            let error = match result {
                Ok(link) => {
                    let arrived = fs::canonicalize(&link).map_err(local)?;
                    fs::remove_file(&link).map_err(local)?;
                    if taken(&arrived)? {
                        return Ok(());
                    }
                    fs::remove_file(&arrived).map_err(local)?;
                    anyhow!(
                        "{what} arrived damaged: its checksum is not the Hub's; run the same command again"
                    )
                }
                // All came, and the link to it could not be made, as on a disk that has none.
                Err(_) if taken(&blob)? => return Ok(()),
                Err(error) if lasting(&error) => return Err(refusal(error, &self.endpoint, what)),
                Err(error) => refusal(error, &self.endpoint, what),
            };
            let Some(wait) = waits.next() else { return Err(error) };
            std::thread::sleep(wait);
        }
    }

    /// Removes what downloads leave, when all is whole.
    pub(super) fn tidy(&self) {
        // Empty folders and locks; where they cannot be removed, they do no harm.
        let _ = fs::remove_dir_all(self.folder.join(UNFINISHED));
    }
}

/// Whether the file at `path` is there and as the Hub states.
fn whole(path: &Path, metadata: &Metadata) -> std::io::Result<bool> {
    match fs::metadata(path) {
        Ok(file) if file.is_file() && file.len() == metadata.size() as u64 => {
            checksum::matches(path, metadata.etag())
        }
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(false),
    }
}

/// Moves the file at `arrived` to `target` if it is whole; whether it was.
fn take(arrived: &Path, metadata: &Metadata, target: &Path) -> std::io::Result<bool> {
    let whole = whole(arrived, metadata)?;
    if whole {
        fs::rename(arrived, target)?;
    }
    Ok(whole)
}

/// Whether trying again is of no use.
fn lasting(error: &ApiError) -> bool {
    match error {
        ApiError::RequestError(error) => matches!(**error, ureq::Error::StatusCode(400..=499)),
        // The write failed, not the connection.
        ApiError::IoError(error) => {
            matches!(
                error.kind(),
                ErrorKind::StorageFull | ErrorKind::PermissionDenied | ErrorKind::NotADirectory
            )
        }
        ApiError::LockAcquisition(_) => true,
        _ => false,
    }
}

/// What failed and what to do.
fn refusal(error: ApiError, endpoint: &str, what: &str) -> anyhow::Error {
    let again = "run the same command again, and it goes on where it ended";
    match error {
        ApiError::RequestError(error) => match *error {
            ureq::Error::StatusCode(401 | 403) => anyhow!(
                "{endpoint} does not give {what}: it does not exist, or is not open to you; check the name, or set \
                 HF_TOKEN to a token that may read it"
            ),
            ureq::Error::StatusCode(404) => anyhow!("{endpoint} has no {what}; check the name"),
            ureq::Error::StatusCode(429) => anyhow!("{endpoint} is asked too often; wait, then {again}"),
            ureq::Error::StatusCode(code) => anyhow!("{endpoint} answers {code} for {what}; {again}"),
            ureq::Error::Json(error) => {
                anyhow!("{endpoint} does not describe {what} ({error}); is it a Hub?")
            }
            error => anyhow!("cannot get {what} from {endpoint}: {error}; check the network, then {again}"),
        },
        ApiError::MissingHeader(_) | ApiError::InvalidHeader(_) | ApiError::ParseIntError(_) => {
            anyhow!("{endpoint} does not describe {what} ({error}); is it a Hub?")
        }
        ApiError::LockAcquisition(_) => anyhow!("{what} is being downloaded by another process; wait for it"),
        error => anyhow!("the download of {what} ended early ({error}); {again}"),
    }
}

/// The user's token for the Hub, from the environment or the file that `huggingface-cli login` writes.
fn token() -> Option<String> {
    let variable = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
    let text = |text: String| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
    if let Some(token) = variable("HF_TOKEN") {
        return token.into_string().ok().and_then(text);
    }
    let cache =
        || variable("XDG_CACHE_HOME").map(PathBuf::from).or_else(|| Some(env::home_dir()?.join(".cache")));
    let home = || variable("HF_HOME").map(PathBuf::from).or_else(|| Some(cache()?.join("huggingface")));
    let path = variable("HF_TOKEN_PATH").map(PathBuf::from).or_else(|| Some(home()?.join("token")))?;
    fs::read_to_string(path).ok().and_then(text)
}

/// A bar that shows one download, with what was there before it.
struct Shown(ProgressBar);

impl Progress for Shown {
    fn init(&mut self, size: usize, _: &str) {
        self.0.set_length(size as u64);
        self.0.set_position(0);
    }

    fn update(&mut self, size: usize) {
        self.0.inc(size as u64);
    }

    fn finish(&mut self) {}
}
