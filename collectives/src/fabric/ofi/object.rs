//! What is given back when it is dropped: objects of libfabric, and memory that it reads and writes.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;

use super::sys::{Fid, Object};
use crate::fabric::Raw;
use crate::fault::Fault;

/// An object of the library, closed when it is dropped.
#[derive(Debug)]
pub(super) struct Handle<T: Object>(Option<NonNull<T>>);

// SAFETY: the objects are used by one thread at a time, whichever it is: that is `FI_THREAD_DOMAIN`, which is asked
// for.
unsafe impl<T: Object> Send for Handle<T> {}

impl<T: Object> Handle<T> {
    /// None, yet.
    pub(super) const NONE: Self = Self(None);

    /// Takes what a call made: nobody else may close it.
    pub(super) fn new(what: &'static str, made: Option<NonNull<T>>) -> Result<Self, Fault> {
        match made {
            Some(object) => Ok(Self(Some(object))),
            None => Err(Fault::System { what, why: "libfabric made none".into() }),
        }
    }

    /// Its address. Valid until it is closed; null afterwards.
    pub(super) fn at(&self) -> *mut T {
        self.0.map_or(std::ptr::null_mut(), NonNull::as_ptr)
    }

    /// As what it begins with.
    pub(super) fn fid(&self) -> *mut Fid {
        self.at().cast()
    }

    /// Closes it. False where the library refuses: it may still use what the object stands for.
    pub(super) fn close(&mut self) -> bool {
        let Some(object) = self.0.take() else { return true };
        let fid = object.as_ptr().cast::<Fid>();
        // SAFETY: an open object that begins with a `Fid`, which nobody uses after this.
        let result = unsafe { ((*(*fid).ops).close)(fid) };
        if result != 0 {
            tracing::error!(object = std::any::type_name::<T>(), error = result, "libfabric does not close it");
        }
        result == 0
    }
}

impl<T: Object> Drop for Handle<T> {
    fn drop(&mut self) {
        self.close();
    }
}

/// Zeroed memory from the start of a page.
#[derive(Debug)]
pub(super) struct Block {
    at: NonNull<u8>,
    layout: Layout,
}

// SAFETY: plain memory by address; no reference to it is given out.
unsafe impl Send for Block {}

const PAGE: usize = 4096;

impl Block {
    /// # Errors
    /// [`Fault::System`] where there is not that much.
    pub(super) fn new(bytes: usize) -> Result<Self, Fault> {
        let refused = || Fault::System { what: "memory for a transport", why: format!("{bytes} bytes are too many") };
        let layout = Layout::from_size_align(bytes.max(1), PAGE).map_err(|_| refused())?;
        // SAFETY: the layout is not empty.
        let at = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or_else(refused)?;
        for page in (0..layout.size()).step_by(PAGE) {
            // SAFETY: inside. The write makes the page exist, as `FI_MR_ALLOCATED` demands.
            unsafe { at.add(page).write_volatile(0) };
        }
        Ok(Self { at, layout })
    }

    pub(super) fn raw(&self) -> Raw {
        Raw { at: self.at.as_ptr(), bytes: self.layout.size() }
    }

    /// Its place so many bytes from the start, which are at most its length.
    pub(super) fn at(&self, offset: usize) -> *mut u8 {
        debug_assert!(offset <= self.layout.size());
        self.at.as_ptr().wrapping_add(offset)
    }

    /// Never frees it: somebody may still write to it.
    pub(super) fn leak(&mut self) {
        self.layout = Layout::new::<()>();
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if self.layout.size() > 0 {
            // SAFETY: made with this layout; whoever had its address from this type's owner has it no longer.
            unsafe { dealloc(self.at.as_ptr(), self.layout) };
        }
    }
}
