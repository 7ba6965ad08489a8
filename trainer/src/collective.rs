//! Collectives on tensors: a thin layer over [`swarmloom_collectives::Group`].
//!
//! Tensors of any shape and stride, on any device. What is not dense on the CPU is copied there and back. A tensor that a
//! call changes is changed only when the call has succeeded.

use swarmloom_collectives::fabric::Raw;
use swarmloom_collectives::plan::{Collective, Rank};
use swarmloom_collectives::{CollectiveError, Group};
use swarmloom_kernels::Dtype;
use swarmloom_kernels::reduce::ReduceOp;
use tch::{Device, Kind, Tensor};

/// Why a collective on a tensor failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TensorCollectiveError {
    /// There are no collectives for this kind of element.
    #[error("collectives do not know elements of kind {0:?}")]
    Kind(Kind),
    /// libtorch says so.
    #[error(transparent)]
    Torch(#[from] tch::TchError),
    /// The collective failed.
    #[error(transparent)]
    Collective(#[from] CollectiveError),
}

/// The element type of the collectives for a kind of tensor.
///
/// # Errors
/// [`TensorCollectiveError::Kind`].
pub fn dtype(kind: Kind) -> Result<Dtype, TensorCollectiveError> {
    Ok(match kind {
        Kind::Float => Dtype::F32,
        Kind::Double => Dtype::F64,
        Kind::BFloat16 => Dtype::Bf16,
        Kind::Half => Dtype::F16,
        Kind::Int8 => Dtype::I8,
        Kind::Int => Dtype::I32,
        Kind::Int64 => Dtype::I64,
        Kind::Uint8 => Dtype::U8,
        other => return Err(TensorCollectiveError::Kind(other)),
    })
}

/// Reduces the tensors of all ranks (of one shape) into each of them.
///
/// # Errors
/// [`TensorCollectiveError`]; the tensor is as it was.
pub fn all_reduce(group: &mut Group, tensor: &mut Tensor, op: ReduceOp) -> Result<(), TensorCollectiveError> {
    let input = dense(tensor)?;
    let mut output = input.f_empty_like()?;
    run(group, &Collective::AllReduce { count: input.numel() }, &input, &mut output, op)?;
    tensor.f_copy_(&output.f_view_as(tensor)?)?;
    Ok(())
}

/// The tensors of all ranks (of one shape), stacked: `[ranks, ...]`, on this rank's device.
///
/// # Errors
/// [`TensorCollectiveError`].
pub fn all_gather(group: &mut Group, tensor: &Tensor) -> Result<Tensor, TensorCollectiveError> {
    let input = dense(tensor)?;
    let ranks = group.ranks();
    let shape: Vec<i64> = std::iter::once(ranks as i64).chain(tensor.size()).collect();
    let mut output = Tensor::f_empty(shape, (input.kind(), Device::Cpu))?;
    let collective = Collective::AllGather { parts: vec![input.numel(); ranks] };
    run(group, &collective, &input, &mut output, ReduceOp::Sum)?;
    Ok(output.f_to_device(tensor.device())?)
}

/// Overwrites the tensors of all ranks (of one shape) with the root's.
///
/// # Errors
/// [`TensorCollectiveError`]; the tensor is as it was.
pub fn broadcast(group: &mut Group, tensor: &mut Tensor, root: Rank) -> Result<(), TensorCollectiveError> {
    let input = dense(tensor)?;
    let mut output = input.f_empty_like()?;
    let collective = Collective::Broadcast { root, count: input.numel() };
    let given = if group.rank() == root { input } else { input.f_narrow(0, 0, 0)? };
    run(group, &collective, &given, &mut output, ReduceOp::Sum)?;
    tensor.f_copy_(&output.f_view_as(tensor)?)?;
    Ok(())
}

/// Reduces the tensors of all ranks (of one length, dense) and leaves each rank its part: `parts[rank]` elements, one after
/// the other.
///
/// # Errors
/// [`TensorCollectiveError`].
pub fn reduce_scatter(
    group: &mut Group,
    tensor: &Tensor,
    parts: &[usize],
    op: ReduceOp,
) -> Result<Tensor, TensorCollectiveError> {
    let input = dense(tensor)?;
    let own = parts.get(group.rank()).copied().unwrap_or(0) as i64;
    let mut output = Tensor::f_empty([own], (input.kind(), Device::Cpu))?;
    run(group, &Collective::ReduceScatter { parts: parts.to_vec() }, &input, &mut output, op)?;
    Ok(output.f_to_device(tensor.device())?)
}

/// Puts the dense tensors of all ranks, `parts[rank]` elements each, one after the other into `whole`. Where it fails,
/// `whole` is undefined.
///
/// # Errors
/// [`TensorCollectiveError`].
pub fn all_gather_into(
    group: &mut Group,
    part: &Tensor,
    whole: &mut Tensor,
    parts: &[usize],
) -> Result<(), TensorCollectiveError> {
    let input = dense(part)?;
    let collective = Collective::AllGather { parts: parts.to_vec() };
    if whole.device() == Device::Cpu && whole.is_contiguous() {
        return run(group, &collective, &input, whole, ReduceOp::Sum);
    }
    let mut output = Tensor::f_empty([parts.iter().sum::<usize>() as i64], (input.kind(), Device::Cpu))?;
    run(group, &collective, &input, &mut output, ReduceOp::Sum)?;
    Ok(whole.f_copy_(&output.f_view_as(whole)?)?)
}

/// Gives a tensor to rank `to`.
///
/// # Errors
/// [`TensorCollectiveError`].
pub fn send(group: &mut Group, tensor: &Tensor, to: Rank) -> Result<(), TensorCollectiveError> {
    let input = dense(tensor)?;
    let mut nothing = input.f_narrow(0, 0, 0)?;
    let collective = Collective::Send { from: group.rank(), to, count: input.numel() };
    run(group, &collective, &input, &mut nothing, ReduceOp::Sum)
}

/// Takes a tensor of `shape` and `kind` from rank `from`: on the processor.
///
/// # Errors
/// [`TensorCollectiveError`].
pub fn receive(group: &mut Group, (shape, kind): (&[i64], Kind), from: Rank) -> Result<Tensor, TensorCollectiveError> {
    let mut output = Tensor::f_empty(shape, (kind, Device::Cpu))?;
    let nothing = Tensor::f_empty([0], (kind, Device::Cpu))?;
    let collective = Collective::Send { from, to: group.rank(), count: output.numel() };
    run(group, &collective, &nothing, &mut output, ReduceOp::Sum)?;
    Ok(output)
}

/// The tensor as one dense row on the CPU; it may be the tensor's own memory.
fn dense(tensor: &Tensor) -> Result<Tensor, TensorCollectiveError> {
    dtype(tensor.kind())?;
    Ok(tensor.f_detach()?.f_to_device(Device::Cpu)?.f_contiguous()?.f_view([-1])?)
}

/// Runs a collective on dense tensors of the CPU with the lengths that it says.
fn run(
    group: &mut Group,
    collective: &Collective,
    input: &Tensor,
    output: &mut Tensor,
    op: ReduceOp,
) -> Result<(), TensorCollectiveError> {
    let dtype = dtype(input.kind())?;
    let raw = |tensor: &Tensor| Raw { at: tensor.data_ptr().cast(), bytes: tensor.numel() * dtype.size() };
    // SAFETY: both are dense and on the CPU, so that many bytes are theirs; the output was made here and shares memory with
    // no other tensor; lengths are checked by the group.
    #[allow(unsafe_code)]
    let done = unsafe { group.run_raw(collective, dtype, op, raw(input), raw(output), false) };
    done?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};
    use std::time::Duration;

    use swarmloom_collectives::GroupConfig;
    use swarmloom_collectives::bootstrap::Rendezvous;

    use super::*;

    fn with_group(ranks: usize, body: impl Fn(Group) + Sync) {
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|one| one.local_addr()).expect("a port");
        std::thread::scope(|scope| {
            for rank in 0..ranks {
                let body = &body;
                scope.spawn(move || {
                    let (token, timeout) = (b"tensors".to_vec(), Duration::from_secs(20));
                    let at = Rendezvous { address, token, rank, ranks, timeout };
                    body(Group::join(at, GroupConfig::default()).expect("a group"));
                });
            }
        });
    }

    #[test]
    fn tensors_of_any_shape_and_stride_are_reduced_gathered_and_broadcast() {
        with_group(3, |mut group| {
            let rank = group.rank() as i64;
            // Transposed: not dense.
            let own = (Tensor::arange(6, (Kind::Float, Device::Cpu)).view([2, 3]) + rank).transpose(0, 1);
            let mut sum = own.copy().transpose(0, 1).contiguous().transpose(0, 1);
            assert!(!sum.is_contiguous());
            all_reduce(&mut group, &mut sum, ReduceOp::Sum).expect("reduced");
            let wanted = (Tensor::arange(6, (Kind::Float, Device::Cpu)).view([2, 3]) * 3 + 3).transpose(0, 1);
            assert_eq!(sum, wanted);
            let all = all_gather(&mut group, &own).expect("gathered");
            assert_eq!(all.size(), [3, 3, 2]);
            for other in 0..3 {
                assert_eq!(all.get(other), &own - rank + other);
            }
            let mut given = own.copy();
            broadcast(&mut group, &mut given, 2).expect("given");
            assert_eq!(given, &own - rank + 2);
            let mut halves = Tensor::full([5], 0.25, (Kind::BFloat16, Device::Cpu));
            all_reduce(&mut group, &mut halves, ReduceOp::Sum).expect("reduced");
            assert_eq!(halves.to_kind(Kind::Float), Tensor::full([5], 0.75, (Kind::Float, Device::Cpu)));
            let truth = Tensor::ones([2], (Kind::Bool, Device::Cpu));
            assert!(matches!(all_gather(&mut group, &truth), Err(TensorCollectiveError::Kind(Kind::Bool))));
        });
    }
}
