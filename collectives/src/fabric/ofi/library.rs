//! libfabric itself: opened when it is first needed, and asked what it can do here.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr::{self, NonNull};
use std::sync::OnceLock;

use super::sys::*;
use crate::fault::Fault;

/// One way to reach others that this host has and that this transport can use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderInfo {
    /// The provider, as `Offer::new` wants it: `verbs;ofi_rxm`, `efa`, `tcp;ofi_rxm`, ...
    pub name: String,
    /// The network.
    pub fabric: String,
    /// The device or interface.
    pub domain: String,
    /// What addresses look like: `FI_SOCKADDR_IN`, ...
    pub address_format: String,
    /// The provider's version and that of the library, as `117.0 (libfabric 1.17)`.
    pub version: String,
}

/// What libfabric finds on this host, best first, as far as this transport can use it.
///
/// # Errors
/// [`Fault::System`] where the library is missing, or finds nothing.
pub fn probe() -> Result<Vec<ProviderInfo>, Fault> {
    let library = Library::get()?;
    let list = library.find(None, true)?;
    let mut found = Vec::new();
    for info in list.iter() {
        let seen = info.seen();
        if !found.contains(&seen) {
            found.push(seen);
        }
    }
    // Stable: libfabric has an order of its own.
    found.sort_by_key(|info: &ProviderInfo| preference(&info.name));
    Ok(found)
}

/// Providers that are chosen when none is asked for, the fastest first. Others are not chosen by themselves: `shm` does
/// not leave the host, and the rest are for special cases.
const PREFERRED: [&str; 5] = ["cxi", "efa", "verbs;ofi_rxm", "tcp", "tcp;ofi_rxm"];

/// The lower the better; providers that are not chosen by themselves come last.
pub(super) fn preference(name: &str) -> usize {
    PREFERRED.iter().position(|preferred| *preferred == name).unwrap_or(PREFERRED.len())
}

pub(super) fn is_preferred(name: &str) -> bool {
    PREFERRED.contains(&name)
}

/// The newest interface that this code was written for. The library behaves as of that version even if it is newer.
const NEWEST: u32 = version(1, 18);
const NAME: &str = "libfabric.so.1";

type GetInfo =
    unsafe extern "C" fn(u32, *const c_char, *const c_char, u64, *const FiInfo, *mut Option<NonNull<FiInfo>>) -> c_int;
type OpenFabric = unsafe extern "C" fn(*mut FiFabricAttr, *mut Option<NonNull<FidFabric>>, *mut c_void) -> c_int;

/// The exported functions. The library stays loaded: it has threads and handlers of its own.
#[derive(Debug)]
pub(super) struct Library {
    version: u32,
    getinfo: GetInfo,
    freeinfo: unsafe extern "C" fn(*mut FiInfo),
    dupinfo: unsafe extern "C" fn(*const FiInfo) -> Option<NonNull<FiInfo>>,
    pub(super) fabric: OpenFabric,
    strerror: unsafe extern "C" fn(c_int) -> *const c_char,
    _library: libloading::Library,
}

impl Library {
    /// The library, loaded at the first call.
    ///
    /// # Errors
    /// [`Fault::System`] where it is missing or is none.
    pub(super) fn get() -> Result<&'static Self, Fault> {
        static LIBRARY: OnceLock<Result<Library, String>> = OnceLock::new();
        let loaded = LIBRARY.get_or_init(|| Self::load().map_err(|error| error.to_string()));
        loaded.as_ref().map_err(|why| Fault::System {
            what: "opening libfabric",
            why: format!("{why} (Debian and Ubuntu have it as the package libfabric1)"),
        })
    }

    fn load() -> Result<Self, libloading::Error> {
        // SAFETY: the constructors of libfabric may run in any program that does not unload it.
        let library = unsafe { libloading::Library::new(NAME) }?;
        // SAFETY: these are the types that its header gives these functions; they are called while `library` lives, for
        // it is kept beside them and never unloaded.
        unsafe {
            let version = *library.get::<unsafe extern "C" fn() -> u32>(b"fi_version\0")?;
            Ok(Self {
                version: version(),
                getinfo: *library.get(b"fi_getinfo\0")?,
                freeinfo: *library.get(b"fi_freeinfo\0")?,
                dupinfo: *library.get(b"fi_dupinfo\0")?,
                fabric: *library.get(b"fi_fabric\0")?,
                strerror: *library.get(b"fi_strerror\0")?,
                _library: library,
            })
        }
    }

    /// Its version, as [`version`] makes it.
    pub(super) fn version(&self) -> u32 {
        self.version
    }

    /// What an error number (positive or negative) means.
    pub(super) fn why(&self, error: isize) -> String {
        let number = c_int::try_from(error.unsigned_abs()).unwrap_or(c_int::MAX);
        // SAFETY: any number may be asked for; the text is static.
        text(unsafe { (self.strerror)(number) })
    }

    /// The error of a call, or its result where that is not negative.
    pub(super) fn check(&self, what: &'static str, result: impl Into<i64>) -> Result<i64, Fault> {
        match result.into() {
            result @ 0.. => Ok(result),
            error => Err(Fault::System { what, why: self.why(error as isize) }),
        }
    }

    /// Ways to reach others with one-sided writes, of one provider or of all. `local`: memory that is read from may
    /// have to be registered too; only few providers want that.
    pub(super) fn find(&'static self, provider: Option<&str>, local: bool) -> Result<Infos, Fault> {
        let refused = |why: String| Fault::System { what: "looking for a provider of libfabric", why };
        let name = provider.map(CString::new).transpose().map_err(|_| refused("its name has a zero in it".into()))?;
        // SAFETY: asks for an empty one.
        let hints = unsafe { (self.dupinfo)(ptr::null()) }.ok_or_else(|| refused("no memory".into()))?;
        let hints = Infos { first: hints, library: self };
        // SAFETY: `dupinfo` made the structure and all its attributes, and nobody else has them. The name is memory of
        // `malloc`, as `freeinfo` expects of it.
        unsafe {
            let info = &mut *hints.first.as_ptr();
            info.caps = FI_MSG | FI_SEND | FI_RECV | FI_RMA | FI_WRITE | FI_REMOTE_WRITE;
            info.mode = FI_CONTEXT | FI_CONTEXT2;
            (*info.ep_attr).kind = FI_EP_RDM;
            (*info.domain_attr).threading = FI_THREAD_DOMAIN;
            (*info.domain_attr).resource_mgmt = FI_RM_ENABLED;
            (*info.domain_attr).mr_mode = FI_MR_VIRT_ADDR
                | FI_MR_ALLOCATED
                | FI_MR_PROV_KEY
                | FI_MR_ENDPOINT
                | if local { FI_MR_LOCAL } else { 0 };
            if let Some(name) = &name {
                (*info.fabric_attr).prov_name = libc::strdup(name.as_ptr());
            }
        }
        let mut first = None;
        let asked = self.version.min(NEWEST);
        // SAFETY: the hints were made above; no node or service is named; the result goes to a local variable.
        let result =
            unsafe { (self.getinfo)(asked, ptr::null(), ptr::null(), 0, hints.first.as_ptr(), &raw mut first) };
        match first {
            Some(first) if result == 0 => Ok(Infos { first, library: self }),
            _ => {
                let which = provider.map_or("with one-sided writes".into(), |name| format!("called {name}"));
                Err(refused(format!("none {which} on this host ({})", self.why(result as isize))))
            }
        }
    }
}

/// A list of what was found.
#[derive(Debug)]
pub(super) struct Infos {
    first: NonNull<FiInfo>,
    library: &'static Library,
}

// SAFETY: plain memory that whoever has the list has alone.
unsafe impl Send for Infos {}

impl Infos {
    pub(super) fn iter(&self) -> impl Iterator<Item = Info<'_>> {
        std::iter::successors(Some(Info { info: self.first, list: self }), |info| {
            // SAFETY: an element of this list, which lives.
            let next = NonNull::new(unsafe { info.info.as_ref() }.next)?;
            Some(Info { info: next, list: self })
        })
    }
}

impl Drop for Infos {
    fn drop(&mut self) {
        // SAFETY: the list came from `getinfo` or `dupinfo`; whoever has an element of it borrows it or says why it
        // may.
        unsafe { (self.library.freeinfo)(self.first.as_ptr()) };
    }
}

/// One of a list.
#[derive(Debug, Clone, Copy)]
pub(super) struct Info<'a> {
    pub(super) info: NonNull<FiInfo>,
    list: &'a Infos,
}

impl Info<'_> {
    pub(super) fn tx(&self) -> &FiTxAttr {
        // SAFETY: what `getinfo` gives has all its attributes, and they live as long as the list.
        unsafe { &*self.info.as_ref().tx_attr }
    }

    pub(super) fn rx(&self) -> &FiRxAttr {
        // SAFETY: as above.
        unsafe { &*self.info.as_ref().rx_attr }
    }

    pub(super) fn ep(&self) -> &FiEpAttr {
        // SAFETY: as above.
        unsafe { &*self.info.as_ref().ep_attr }
    }

    pub(super) fn domain(&self) -> &FiDomainAttr {
        // SAFETY: as above.
        unsafe { &*self.info.as_ref().domain_attr }
    }

    pub(super) fn fabric(&self) -> &FiFabricAttr {
        // SAFETY: as above.
        unsafe { &*self.info.as_ref().fabric_attr }
    }

    pub(super) fn name(&self) -> String {
        text(self.fabric().prov_name)
    }

    /// It, in words.
    pub(super) fn seen(&self) -> ProviderInfo {
        // SAFETY: as above.
        let format = unsafe { self.info.as_ref() }.addr_format;
        let two = |version: u32| format!("{}.{}", version >> 16, version & 0xFFFF);
        ProviderInfo {
            name: self.name(),
            fabric: text(self.fabric().name),
            domain: text(self.domain().name),
            address_format: match FORMATS.get(format as usize) {
                Some(name) => (*name).to_owned(),
                None => format!("format {format}"),
            },
            version: format!("{} (libfabric {})", two(self.fabric().prov_version), two(self.list.library.version)),
        }
    }
}

/// Names of address formats, by number.
const FORMATS: [&str; 16] = [
    "FI_FORMAT_UNSPEC",
    "FI_SOCKADDR",
    "FI_SOCKADDR_IN",
    "FI_SOCKADDR_IN6",
    "FI_SOCKADDR_IB",
    "FI_ADDR_PSMX",
    "FI_ADDR_GNI",
    "FI_ADDR_BGQ",
    "FI_ADDR_MLX",
    "FI_ADDR_STR",
    "FI_ADDR_PSMX2",
    "FI_ADDR_IB_UD",
    "FI_ADDR_EFA",
    "FI_ADDR_PSMX3",
    "FI_ADDR_OPX",
    "FI_ADDR_CXI",
];

/// A text of the library, copied.
pub(super) fn text(at: *const c_char) -> String {
    if at.is_null() {
        return String::new();
    }
    // SAFETY: texts that libfabric gives end with a zero and stay while they are copied here.
    unsafe { CStr::from_ptr(at) }.to_string_lossy().into_owned()
}
