//! Writes the CRDs into the folder given as the only argument. `make generate` calls it; CI compares.

use std::{env, error::Error, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    let dir = PathBuf::from(env::args().nth(1).ok_or("usage: crdgen FOLDER")?);
    fs::create_dir_all(&dir)?;
    for (file, crd) in asynctask_api::crd::all() {
        fs::write(dir.join(file), serde_yaml_ng::to_string(&crd)?)?;
    }
    Ok(())
}
