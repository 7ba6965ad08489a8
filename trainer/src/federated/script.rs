//! Models from TorchScript files: what `torch.jit.script` or `torch.jit.trace` has made and `save` has written.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tch::{CModule, Kind, TchError, Tensor, jit};

use super::{Instance, Net, gist};

/// Longest file that is read: parameters are kept once for each worker and some more times for each version.
const MOST_BYTES: u64 = 1 << 30;

/// A model from a TorchScript file, without a class of its own here.
///
/// - `forward` takes one tensor of f32: `[samples, channels, height, width]`, or `[samples, values]` where samples are
///   vectors or windows of text (numbers of characters, as f32). It returns logits, `[samples, classes] f32`.
/// - The flat vector has the parameters that require a gradient, in the order of the file (`named_parameters()`), each in row
///   order. All are f32. What does not require one stays as it is, buffers too.
/// - Runs begin with the file's own parameters, whatever their seed.
/// - It is trained in eval mode: dropout is off, batch normalisation uses the statistics of the file. libtorch draws from one
///   generator for the whole process, so what is drawn would depend on who computes when.
/// - Scripts are interpreted without optimisation: the optimiser rewrites them after some calls, and with them the last bits.
///
/// A TorchScript file is a program: load only those that you trust.
#[derive(Debug, Clone)]
pub struct Script {
    name: String,
    bytes: Arc<[u8]>,
    input: Vec<i64>,
    classes: usize,
    /// What is in the file.
    initial: Vec<f32>,
}

/// Why a TorchScript file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScriptError {
    /// It cannot be read.
    #[error("{}: {source}", file.display())]
    Io {
        /// Which.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is too long.
    #[error("{}: more than {MOST_BYTES} bytes, which are read at most", file.display())]
    TooLarge {
        /// Which.
        file: PathBuf,
    },
    /// It is none.
    #[error("{}: no TorchScript module ({why}); torch.jit.script(module).save(path) writes one", file.display())]
    Format {
        /// Which.
        file: PathBuf,
        /// What libtorch says.
        why: String,
    },
    /// A parameter that cannot be trained here.
    #[error("{}: the parameter {name} is {found}; {right}", file.display())]
    Parameter {
        /// Which file.
        file: PathBuf,
        /// Its name.
        name: String,
        /// What it is.
        found: String,
        /// What it should be.
        right: &'static str,
    },
    /// Nothing to train.
    #[error("{}: no parameter requires a gradient, so there is nothing to train", file.display())]
    Nothing {
        /// Which.
        file: PathBuf,
    },
    /// It does not take samples of this shape.
    #[error("{}: given two samples as f32 {shape:?}, it says: {why}", file.display())]
    Forward {
        /// Which.
        file: PathBuf,
        /// What it was given.
        shape: Vec<i64>,
        /// What it says.
        why: String,
    },
    /// What it returns are no logits for these data.
    #[error("{}: given two samples as f32 {shape:?}, it returns {found}, not f32 [2, {classes}]: the data have {classes} classes", file.display())]
    Output {
        /// Which.
        file: PathBuf,
        /// What it was given.
        shape: Vec<i64>,
        /// What it returns.
        found: String,
        /// Those of the data.
        classes: usize,
    },
    /// It draws.
    #[error("{}: it answers differently when asked twice; make it without dropout or noise, and call eval() before tracing it", file.display())]
    Draws {
        /// Which.
        file: PathBuf,
    },
}

impl Script {
    /// Reads a file, and tries it on two samples of this shape (channels, height, width).
    ///
    /// # Errors
    /// [`ScriptError`] where it cannot be read, holds no module, or is not one for such data.
    pub fn load(file: &Path, [channels, height, width]: [usize; 3], classes: usize) -> Result<Self, ScriptError> {
        let io = |source| ScriptError::Io { file: file.to_owned(), source };
        let mut bytes = Vec::new();
        // One more than is read shows that it is longer, also where its length is not known before.
        File::open(file).and_then(|file| file.take(MOST_BYTES + 1).read_to_end(&mut bytes)).map_err(io)?;
        if bytes.len() as u64 > MOST_BYTES {
            return Err(ScriptError::TooLarge { file: file.to_owned() });
        }
        let bytes: Arc<[u8]> = bytes.into();
        let format = |error: TchError| ScriptError::Format { file: file.to_owned(), why: gist(&error) };
        let module = open(&bytes).map_err(format)?;
        let mut initial = Vec::new();
        for (name, parameter) in trained(&module).map_err(format)? {
            let wrong = |found: String, right| ScriptError::Parameter { file: file.to_owned(), name, found, right };
            if parameter.kind() != Kind::Float {
                return Err(wrong(format!("{:?}", parameter.kind()), "f32 is needed: module.float() makes it so"));
            }
            let values = parameter.f_detach().and_then(|one| one.f_reshape([-1])).and_then(Vec::<f32>::try_from);
            initial.extend(values.map_err(format)?);
        }
        if initial.is_empty() {
            return Err(ScriptError::Nothing { file: file.to_owned() });
        }
        let vector = channels == 1 && height == 1;
        let input = if vector { vec![width] } else { vec![channels, height, width] };
        let input: Vec<i64> = input.into_iter().map(|size| size as i64).collect();
        let stem = file.file_stem().unwrap_or_default().to_string_lossy();
        let script = Self { name: format!("torchscript {stem}"), bytes, input, classes, initial };
        script.try_out(file, &module)?;
        Ok(script)
    }

    /// The file's bytes, for whoever has to know whether it is another one.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn try_out(&self, file: &Path, module: &CModule) -> Result<(), ScriptError> {
        let mut shape = vec![2];
        shape.extend(&self.input);
        let failed =
            |error: TchError| ScriptError::Forward { file: file.to_owned(), shape: shape.clone(), why: gist(&error) };
        let _no_grad = tch::no_grad_guard();
        let zeros = Tensor::f_zeros(shape.as_slice(), (Kind::Float, tch::Device::Cpu)).map_err(failed)?;
        // Dropout of nothing is nothing: what draws is seen on ones.
        let ones = zeros.f_ones_like().map_err(failed)?;
        let logits = forward(module, &zeros).map_err(failed)?;
        if logits.size() != [2, self.classes as i64] || logits.kind() != Kind::Float {
            let found = format!("{:?} {:?}", logits.kind(), logits.size());
            return Err(ScriptError::Output {
                file: file.to_owned(),
                shape: shape.clone(),
                found,
                classes: self.classes,
            });
        }
        let again = || forward(module, &ones)?.f_equal(&forward(module, &ones)?);
        match again().map_err(failed)? {
            true => Ok(()),
            false => Err(ScriptError::Draws { file: file.to_owned() }),
        }
    }
}

impl Net for Script {
    fn name(&self) -> &str {
        &self.name
    }

    fn input(&self) -> Vec<i64> {
        self.input.clone()
    }

    fn classes(&self) -> usize {
        self.classes
    }

    fn parameters(&self) -> usize {
        self.initial.len()
    }

    fn init(&self, _seed: u64) -> Vec<f32> {
        self.initial.clone()
    }

    fn instance(&self) -> Result<Box<dyn Instance + '_>, TchError> {
        Ok(Box::new(Loaded(open(&self.bytes)?)))
    }
}

/// A module of one thread's own.
struct Loaded(CModule);

impl Instance for Loaded {
    /// The module's own parameters, moved into `flat`.
    fn leaves(&mut self, flat: &Tensor) -> Result<Vec<Tensor>, TchError> {
        let mut at = 0;
        let mut leaves = Vec::new();
        for (_, mut parameter) in trained(&self.0)? {
            let length = parameter.numel() as i64;
            let view = flat.f_narrow(0, at, length)?.f_view(parameter.size().as_slice())?;
            parameter.f_set_data(&view)?;
            at += length;
            leaves.push(parameter);
        }
        Ok(leaves)
    }

    fn logits(&self, _leaves: &[Tensor], x: &Tensor, _training: Option<u64>) -> Result<Tensor, TchError> {
        forward(&self.0, x)
    }
}

fn open(mut bytes: &[u8]) -> Result<CModule, TchError> {
    let mut module = CModule::load_data(&mut bytes)?;
    module.f_set_eval()?;
    Ok(module)
}

/// What is trained, each once: a parameter that two layers share has two names.
fn trained(module: &CModule) -> Result<Vec<(String, Tensor)>, TchError> {
    let mut all: Vec<(String, Tensor)> = Vec::new();
    for (name, parameter) in module.named_parameters()? {
        let known = all.iter().any(|(_, one)| parameter.numel() > 0 && one.data_ptr() == parameter.data_ptr());
        if parameter.requires_grad() && !known {
            all.push((name, parameter));
        }
    }
    Ok(all)
}

fn forward(module: &CModule, x: &Tensor) -> Result<Tensor, TchError> {
    // It is the thread's, and whoever computes on this one may have set it.
    jit::f_set_graph_executor_optimize(false)?;
    module.forward_ts(&[x])
}
