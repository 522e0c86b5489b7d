//! `proa image …`: works on the store's files, whether a node is running or not.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use proa_runtime::image::{
    Content, Credentials, Image, ImageStore, PackOptions, Progress, insecure_registry,
};
use proa_runtime::node::paths::Paths;

use crate::config::DataDir;
use crate::{data_dir, print};

#[derive(Subcommand)]
pub enum Command {
    /// Lists the images of this node
    Ls(DataDir),
    /// Fetches an image from its registry
    Pull(Transfer),
    /// Sends an image to its registry
    Push(Transfer),
    /// Takes in an OCI layout, a `docker save` archive or a .wasm file
    Import {
        /// Directory or file
        source: PathBuf,
        /// Name of the image; taken from the archive if it has one
        #[arg(short = 't', long = "tag")]
        name: Option<String>,
        #[command(flatten)]
        data: DataDir,
    },
    /// Makes an image of a root directory or a .wasm file
    Pack(Pack),
    /// Gives an image one more name
    Tag {
        #[command(flatten)]
        image: Named,
        /// The further name
        further: String,
    },
    /// Shows all that is known of an image, as JSON
    Inspect(Named),
    /// Removes an image
    Rm(Named),
}

#[derive(Args)]
pub struct Named {
    /// Name of the image
    name: String,
    #[command(flatten)]
    data: DataDir,
}

#[derive(Args)]
pub struct Transfer {
    #[command(flatten)]
    image: Named,
    /// User name at the registry
    #[arg(long, env = "PROA_REGISTRY_USERNAME", requires = "password")]
    username: Option<String>,
    /// Password at the registry; better given in the environment, where other users do not see it
    #[arg(long, env = "PROA_REGISTRY_PASSWORD", hide_env_values = true, requires = "username")]
    password: Option<String>,
    /// Registries that are spoken to without TLS, HOST:PORT; separated by commas
    #[arg(long, env = "PROA_INSECURE_REGISTRIES", value_delimiter = ',', value_parser = insecure_registry)]
    insecure_registries: Vec<String>,
}

#[derive(Args)]
pub struct Pack {
    /// Root directory, whose files keep their modes and owners, or .wasm file
    source: PathBuf,
    /// Name of the image
    #[arg(short = 't', long = "tag")]
    name: String,
    /// Program and its first arguments; repeat for each
    #[arg(long, allow_hyphen_values = true)]
    entrypoint: Vec<String>,
    /// Further arguments; repeat for each
    #[arg(long, allow_hyphen_values = true)]
    cmd: Vec<String>,
    /// NAME=value; repeat for each
    #[arg(long)]
    env: Vec<String>,
    /// Working directory
    #[arg(long, default_value = "")]
    workdir: String,
    /// User or user:group
    #[arg(long, default_value = "")]
    user: String,
    /// Directory that is written to, also where the root is read-only; repeat for each
    #[arg(long)]
    volume: Vec<String>,
    #[command(flatten)]
    data: DataDir,
}

fn store(data: &DataDir, insecure_registries: &[String]) -> Result<ImageStore> {
    data_dir::prepare(&data.data_dir)?;
    ImageStore::open(&Paths::new(&data.data_dir), insecure_registries)
        .with_context(|| format!("cannot open the image store in {}", data.data_dir.display()))
}

pub fn run(command: Command) -> Result<()> {
    match command {
        Command::Ls(data) => list(&store(&data, &[])?.list()),
        Command::Inspect(named) => {
            let image = store(&named.data, &[])?.get(&named.name);
            let image = image.with_context(|| format!("{}: not found", named.name))?;
            print::line(&serde_json::to_string_pretty(&image)?);
        }
        Command::Rm(named) => store(&named.data, &[])?.remove(&named.name)?,
        Command::Tag { image, further } => {
            print::line(&store(&image.data, &[])?.tag(&image.name, &further)?.reference);
        }
        Command::Import { source, name, data } => {
            store(&data, &[])?.import(&source, name.as_deref())?.iter().for_each(tell);
        }
        Command::Pack(pack) => {
            let options = PackOptions {
                entrypoint: pack.entrypoint,
                cmd: pack.cmd,
                env: pack.env,
                working_dir: pack.workdir,
                user: pack.user,
                volumes: pack.volume,
            };
            let image = store(&pack.data, &[])?.pack(&pack.source, &pack.name, &options)?;
            tell(&image);
        }
        Command::Pull(transfer) => {
            let (store, credentials) = (transfer.store()?, transfer.credentials()?);
            let image = with_bar(async |progress| {
                store.pull(&transfer.image.name, "", &credentials, false, progress).await
            })?;
            tell(&image);
        }
        Command::Push(transfer) => {
            let (store, credentials) = (transfer.store()?, transfer.credentials()?);
            with_bar(async |progress| store.push(&transfer.image.name, &credentials, progress).await)?;
        }
    }
    Ok(())
}

/// Tells of an image that has come in.
fn tell(image: &Image) {
    print::line(&image.reference);
    if image.devices_left_out > 0 {
        let (count, name) = (image.devices_left_out, &image.reference);
        let text =
            format!("left out {count} device nodes of {name}: containers have the node's devices only");
        print::complain(&text);
    }
}

impl Transfer {
    fn store(&self) -> Result<ImageStore> {
        store(&self.image.data, &self.insecure_registries)
    }

    fn credentials(&self) -> Result<Vec<Credentials>> {
        let (Some(username), Some(password)) = (&self.username, &self.password) else {
            return Ok(Vec::new());
        };
        let full = proa_runtime::image::normalize(&self.image.name)?;
        let registry = full.split('/').next().unwrap_or_default().to_owned();
        Ok(vec![Credentials { registry, username: username.clone(), password: password.clone() }])
    }
}

/// Runs a transfer with a progress bar, which shows itself on terminals only.
fn with_bar<T, E>(
    transfer: impl AsyncFnOnce(&(dyn Fn(Progress) + Send + Sync)) -> Result<T, E>,
) -> Result<T, E> {
    let style = ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta}");
    let bar = ProgressBar::new(0);
    if let Ok(style) = style {
        bar.set_style(style);
    }
    let advance = |progress: Progress| {
        bar.set_length(progress.total_bytes);
        bar.set_position(progress.done_bytes);
    };
    let result = crate::up::runtime().block_on(transfer(&advance));
    bar.finish_and_clear();
    result
}

fn list(images: &[Image]) {
    let width = images.iter().map(|i| i.reference.len()).max().unwrap_or(0).max(4);
    print::line(&format!("{:width$}  {:9}  {:12}  {:>10}", "NAME", "KIND", "IMAGE ID", "SIZE"));
    for image in images {
        let kind = match image.content {
            Content::Layers(_) => "container",
            Content::Wasm { .. } => "wasm",
        };
        let id = image.id.trim_start_matches("sha256:");
        let size = indicatif::HumanBytes(image.size_bytes).to_string();
        let id = &id[..id.len().min(12)];
        print::line(&format!("{:width$}  {kind:9}  {id:12}  {size:>10}", image.reference));
    }
}
