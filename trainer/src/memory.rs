//! The memory of dense f32 tensors on the processor as slices: for kernels of our own.
//!
//! A tensor's clones share its memory, which Rust does not see. As with libtorch's own operations in place, whoever holds
//! a tensor keeps others from using its clones meanwhile.

use tch::{Device, Kind, TchError, Tensor};

/// The elements of a dense f32 tensor on the processor.
///
/// # Errors
/// Where it is none.
pub(crate) fn floats(tensor: &Tensor) -> Result<&[f32], TchError> {
    check(tensor)?;
    // SAFETY: dense f32 on the processor, so that many floats lie there, for as long as the tensor is borrowed.
    #[allow(unsafe_code)]
    let found = unsafe { std::slice::from_raw_parts(tensor.data_ptr().cast::<f32>().cast_const(), tensor.numel()) };
    Ok(found)
}

/// The elements of a dense f32 tensor on the processor, to be changed.
///
/// # Errors
/// Where it is none.
pub(crate) fn floats_mut(tensor: &mut Tensor) -> Result<&mut [f32], TchError> {
    check(tensor)?;
    // SAFETY: as above; the borrow is exclusive, and clones are not used meanwhile.
    #[allow(unsafe_code)]
    let found = unsafe { std::slice::from_raw_parts_mut(tensor.data_ptr().cast::<f32>(), tensor.numel()) };
    Ok(found)
}

fn check(tensor: &Tensor) -> Result<(), TchError> {
    // An empty tensor may have no memory at all.
    if tensor.kind() == Kind::Float && tensor.device() == Device::Cpu && tensor.is_contiguous() && tensor.numel() > 0 {
        return Ok(());
    }
    Err(TchError::Shape(format!("{tensor:?} is no dense f32 tensor on the processor with elements")))
}
