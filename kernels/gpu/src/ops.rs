//! The kernels on buffers, with lengths checked before anything is called.

use swarmloom_kernels::fp8::Fp8;
use swarmloom_kernels::norms::BLOCK;
use swarmloom_kernels::outer::Rule;
use swarmloom_kernels::quantise::Scheme;
use swarmloom_kernels::reduce::ReduceOp;
use swarmloom_kernels::{Dtype, Element, Float};

use crate::buffer::Buffer;
use crate::calls::{self, MAX_SOURCES};
use crate::device::Gpu;
use crate::error::GpuError;
use crate::launch::Launch;

/// A quantised buffer on a device, as [`Gpu::quantise`] writes it.
#[derive(Clone, Copy, Debug)]
pub struct Quantised<'a> {
    /// The codes of all elements.
    pub codes: &'a Buffer<u8>,
    /// One scale for each block.
    pub scales: &'a Buffer<f32>,
}

/// What a rule keeps from step to step, as [`swarmloom_kernels::outer::State`].
#[derive(Debug)]
pub struct State<'a> {
    /// `m`, of the parameters' length.
    pub first: &'a mut Buffer<f32>,
    /// `v`, of the parameters' length, or `None` where the rule has none.
    pub second: Option<&'a mut Buffer<f32>>,
}

/// Checks of one call.
struct Check<'a> {
    gpu: &'a Gpu,
    call: &'static str,
}

impl Check<'_> {
    fn that(&self, holds: bool, why: impl FnOnce() -> String) -> Result<(), GpuError> {
        if holds { Ok(()) } else { Err(GpuError::Usage { call: self.call, why: why() }) }
    }

    /// A buffer of this device and length.
    fn buffer<T: Element>(&self, what: &str, buffer: &Buffer<T>, len: usize) -> Result<(), GpuError> {
        buffer.on(self.gpu, self.call)?;
        self.that(buffer.len() == len, || format!("{what} has {} elements and not {len}", buffer.len()))
    }

    /// How many sources there are.
    fn sources(&self, count: usize) -> Result<(), GpuError> {
        self.that((1..=MAX_SOURCES).contains(&count), || {
            format!("{count} sources; 1 to {MAX_SOURCES} can be reduced at once")
        })
    }

    /// As `swarmloom_kernels::reduce::divide` has it.
    fn divisor(&self, dtype: Dtype, divisor: u32) -> Result<(), GpuError> {
        let largest = match dtype {
            Dtype::I8 => i8::MAX as u32,
            Dtype::U8 => u32::from(u8::MAX),
            Dtype::I32 => i32::MAX as u32,
            _ => u32::MAX,
        };
        self.that((1..=largest).contains(&divisor), || format!("{divisor} is not a divisor for {dtype:?}"))
    }

    fn quantised(&self, what: &str, scheme: Scheme, count: usize, it: Quantised<'_>) -> Result<(), GpuError> {
        self.buffer(&format!("the codes of {what}"), it.codes, scheme.code_bytes(count))?;
        self.buffer(&format!("the scales of {what}"), it.scales, scheme.blocks(count))
    }

    /// Calls the kernel, where there is anything to do.
    fn run(&self, count: usize, launch: impl FnOnce() -> Launch) -> Result<(), GpuError> {
        if count == 0 {
            return Ok(());
        }
        // SAFETY: all buffers are this device's and have the lengths that the kernel counts on. What it writes to is
        // borrowed exclusively; what it reads is not written to meanwhile, because all calls on a buffer are in one stream.
        unsafe { self.gpu.launch(launch()) }
    }
}

impl Gpu {
    fn check(&self, call: &'static str) -> Check<'_> {
        Check { gpu: self, call }
    }

    /// Reduces the sources (1 to [`MAX_SOURCES`]) into `out` in their order, as
    /// [`reduce_slices`](swarmloom_kernels::reduce::reduce_slices) does.
    ///
    /// # Errors
    /// [`GpuError::Usage`] where lengths or devices do not fit, [`GpuError::Driver`].
    pub fn reduce<T: Element>(
        &self,
        op: ReduceOp,
        sources: &[&Buffer<T>],
        out: &mut Buffer<T>,
    ) -> Result<(), GpuError> {
        self.reduce_divided("reduce", op, None, sources, out, None)
    }

    /// Reduces `target` and then the sources into `target`.
    ///
    /// # Errors
    /// As [`Gpu::reduce`].
    pub fn reduce_into<T: Element>(
        &self,
        op: ReduceOp,
        target: &mut Buffer<T>,
        sources: &[&Buffer<T>],
    ) -> Result<(), GpuError> {
        let first = target.address();
        self.reduce_divided("reduce_into", op, Some(first), sources, target, None)
    }

    /// The sources' sum, divided: bit for bit that of [`Gpu::reduce`] and [`Gpu::divide`], in one pass.
    ///
    /// # Errors
    /// As [`Gpu::reduce`]; a divisor of zero, or one that does not fit the element type, is [`GpuError::Usage`].
    pub fn mean<T: Element>(&self, sources: &[&Buffer<T>], divisor: u32, out: &mut Buffer<T>) -> Result<(), GpuError> {
        self.reduce_divided("mean", ReduceOp::Sum, None, sources, out, Some(divisor))
    }

    /// Divides every element, as [`divide`](swarmloom_kernels::reduce::divide) does.
    ///
    /// # Errors
    /// As [`Gpu::mean`].
    pub fn divide<T: Element>(&self, data: &mut Buffer<T>, divisor: u32) -> Result<(), GpuError> {
        let first = data.address();
        self.reduce_divided("divide", ReduceOp::Sum, Some(first), &[], data, Some(divisor))
    }

    fn reduce_divided<T: Element>(
        &self,
        call: &'static str,
        op: ReduceOp,
        first: Option<u64>,
        sources: &[&Buffer<T>],
        out: &mut Buffer<T>,
        divisor: Option<u32>,
    ) -> Result<(), GpuError> {
        let check = self.check(call);
        check.sources(usize::from(first.is_some()) + sources.len())?;
        check.buffer("the destination", out, out.len())?;
        for source in sources {
            check.buffer("a source", source, out.len())?;
        }
        if let Some(divisor) = divisor {
            check.divisor(T::DTYPE, divisor)?;
        }
        let addresses: Vec<u64> = first.into_iter().chain(sources.iter().map(|source| source.address())).collect();
        check.run(out.len(), || calls::reduce((T::DTYPE, op), &addresses, out.address(), out.len(), divisor))
    }

    /// Narrows every element to eight bits, as [`narrow`](swarmloom_kernels::fp8::narrow) does.
    ///
    /// # Errors
    /// As [`Gpu::reduce`].
    pub fn narrow<T: Float>(&self, format: Fp8, x: &Buffer<T>, out: &mut Buffer<u8>) -> Result<(), GpuError> {
        let check = self.check("narrow");
        check.buffer("x", x, x.len())?;
        check.buffer("out", out, x.len())?;
        check.run(x.len(), || calls::narrow((format, T::DTYPE), x.address(), out.address(), x.len()))
    }

    /// Widens every element, as [`widen`](swarmloom_kernels::fp8::widen) does.
    ///
    /// # Errors
    /// As [`Gpu::reduce`].
    pub fn widen<T: Float>(&self, format: Fp8, x: &Buffer<u8>, out: &mut Buffer<T>) -> Result<(), GpuError> {
        let check = self.check("widen");
        check.buffer("x", x, x.len())?;
        check.buffer("out", out, x.len())?;
        check.run(x.len(), || calls::widen((format, T::DTYPE), x.address(), out.address(), x.len()))
    }

    /// Writes codes and scales of `x`, as [`quantise`](swarmloom_kernels::quantise::quantise) does.
    ///
    /// # Errors
    /// As [`Gpu::reduce`].
    pub fn quantise<T: Float>(
        &self,
        scheme: Scheme,
        x: &Buffer<T>,
        codes: &mut Buffer<u8>,
        scales: &mut Buffer<f32>,
    ) -> Result<(), GpuError> {
        let check = self.check("quantise");
        check.buffer("x", x, x.len())?;
        check.quantised("the result", scheme, x.len(), Quantised { codes, scales })?;
        let out = (codes.address(), scales.address());
        check.run(x.len(), || calls::quantise((scheme, T::DTYPE), x.address(), x.len(), out.0, out.1))
    }

    /// Writes the values of codes and scales, as [`dequantise`](swarmloom_kernels::quantise::dequantise) does.
    ///
    /// # Errors
    /// As [`Gpu::reduce`].
    pub fn dequantise<T: Float>(&self, scheme: Scheme, x: Quantised<'_>, out: &mut Buffer<T>) -> Result<(), GpuError> {
        let check = self.check("dequantise");
        check.buffer("out", out, out.len())?;
        check.quantised("x", scheme, out.len(), x)?;
        let (codes, scales) = (x.codes.address(), x.scales.address());
        check.run(out.len(), || calls::dequantise((scheme, T::DTYPE), codes, scales, out.len(), out.address()))
    }

    /// The mean of quantised buffers of `count` elements, quantised again, as
    /// [`reduce_quantised`](swarmloom_kernels::fused::reduce_quantised) does.
    ///
    /// # Errors
    /// As [`Gpu::mean`].
    pub fn reduce_quantised(
        &self,
        scheme: Scheme,
        count: usize,
        sources: &[Quantised<'_>],
        divisor: u32,
        codes: &mut Buffer<u8>,
        scales: &mut Buffer<f32>,
    ) -> Result<(), GpuError> {
        let check = self.check("reduce_quantised");
        let addresses = quantised_sources(&check, scheme, count, sources, divisor)?;
        check.quantised("the result", scheme, count, Quantised { codes, scales })?;
        let out = (codes.address(), scales.address());
        check.run(count, || calls::reduce_quantised(scheme, count, &addresses, divisor, out))
    }

    /// [`Gpu::reduce_quantised`] without the last step.
    ///
    /// # Errors
    /// As [`Gpu::mean`].
    pub fn reduce_dequantised(
        &self,
        scheme: Scheme,
        sources: &[Quantised<'_>],
        divisor: u32,
        out: &mut Buffer<f32>,
    ) -> Result<(), GpuError> {
        let check = self.check("reduce_dequantised");
        let addresses = quantised_sources(&check, scheme, out.len(), sources, divisor)?;
        check.buffer("out", out, out.len())?;
        let to = out.address();
        check.run(out.len(), || calls::reduce_dequantised(scheme, out.len(), &addresses, divisor, to))
    }

    /// One optimizer step with the mean of several gradients, as [`mean_step`](swarmloom_kernels::outer::mean_step) does.
    ///
    /// # Errors
    /// As [`Gpu::mean`]; [`GpuError::Usage`] where `t` is zero or the state is not the rule's.
    pub fn mean_step(
        &self,
        (rule, lr, t): (Rule, f32, u64),
        sources: &[&Buffer<f32>],
        divisor: u32,
        parameters: &mut Buffer<f32>,
        state: State<'_>,
    ) -> Result<(), GpuError> {
        let check = self.check("mean_step");
        let count = parameters.len();
        check.sources(sources.len())?;
        check.divisor(Dtype::F32, divisor)?;
        check.that(t > 0, || "steps are counted from one".into())?;
        check.buffer("the parameters", parameters, count)?;
        for source in sources {
            check.buffer("a source", source, count)?;
        }
        check.buffer("the first state", state.first, count)?;
        check.that(state.second.is_some() == rule.has_second(), || {
            format!("{rule:?} has {} state", if rule.has_second() { "a second" } else { "no second" })
        })?;
        if let Some(second) = &state.second {
            check.buffer("the second state", second, count)?;
        }
        let second = state.second.map_or(0, |second| second.address());
        let addresses: Vec<u64> = sources.iter().map(|source| source.address()).collect();
        let kept = [parameters.address(), state.first.address(), second];
        check.run(count, || calls::step((rule, lr, t), &addresses, divisor, count, kept))
    }

    /// The sum of `x^2`, as [`sum_of_squares`](swarmloom_kernels::norms::sum_of_squares) has it. Waits for the device.
    ///
    /// # Errors
    /// As [`Gpu::reduce`].
    pub fn sum_of_squares<T: Float>(&self, x: &Buffer<T>) -> Result<f64, GpuError> {
        let check = self.check("sum_of_squares");
        check.buffer("x", x, x.len())?;
        let sums = self.zeros::<f64>(x.len().div_ceil(BLOCK))?;
        check.run(x.len(), || calls::sum_of_squares(T::DTYPE, x.address(), x.len(), sums.address()))?;
        let mut each = vec![0.0; sums.len()];
        sums.read(&mut each)?;
        Ok(each.into_iter().fold(0.0, |total, sum| total + sum))
    }

    /// The Euclidean length, the square root of [`Gpu::sum_of_squares`]. Waits for the device.
    ///
    /// # Errors
    /// As [`Gpu::reduce`].
    pub fn l2<T: Float>(&self, x: &Buffer<T>) -> Result<f64, GpuError> {
        Ok(self.sum_of_squares(x)?.sqrt())
    }

    /// The largest absolute value, as [`max_abs`](swarmloom_kernels::norms::max_abs) has it. Waits for the device.
    ///
    /// # Errors
    /// As [`Gpu::reduce`].
    pub fn max_abs<T: Float>(&self, x: &Buffer<T>) -> Result<f32, GpuError> {
        let check = self.check("max_abs");
        check.buffer("x", x, x.len())?;
        let bits = self.zeros::<i32>(1)?;
        check.run(x.len(), || calls::max_abs(T::DTYPE, x.address(), x.len(), bits.address()))?;
        let mut largest = [0];
        bits.read(&mut largest)?;
        let largest = f32::from_bits(largest[0].cast_unsigned());
        Ok(if largest.is_nan() { f32::NAN } else { largest })
    }
}

fn quantised_sources(
    check: &Check<'_>,
    scheme: Scheme,
    count: usize,
    sources: &[Quantised<'_>],
    divisor: u32,
) -> Result<Vec<calls::Coded>, GpuError> {
    check.sources(sources.len())?;
    check.divisor(Dtype::F32, divisor)?;
    for source in sources {
        check.quantised("a source", scheme, count, *source)?;
    }
    Ok(sources.iter().map(|source| (source.codes.address(), source.scales.address())).collect())
}
