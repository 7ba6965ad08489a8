//! All divisors of a number, in bounded time.
//!
//! reasoning-gym tries every number up to the square root, which for the products that it draws can be 10^10. Here
//! small factors are tried and large ones found by Pollard's rho ("A Monte Carlo method for factorization", 1975).

/// Numbers up to here are tried as factors.
const TRIED: u128 = 1 << 10;
/// Factors beyond this are not looked for: reasoning-gym would not return either.
const LARGEST: u128 = 1 << 100;
/// Steps of rho for one number.
const STEPS: u32 = 1 << 19;

/// The divisors of `number` in ascending order. `None` for 0, from 2^100 on, and where a factor was not found.
pub(crate) fn divisors(number: u128) -> Option<Vec<u128>> {
    if number == 0 || number >= LARGEST {
        return None;
    }
    let mut primes = Vec::new();
    let mut rest = number;
    let mut factor = 2;
    while factor <= TRIED && factor * factor <= rest {
        while rest.is_multiple_of(factor) {
            primes.push(factor);
            rest /= factor;
        }
        factor += if factor == 2 { 1 } else { 2 };
    }
    if rest > 1 {
        if factor * factor > rest {
            primes.push(rest);
        } else {
            split(rest, &mut primes)?;
        }
    }
    primes.sort_unstable();
    let mut divisors = vec![1];
    for same in primes.chunk_by(|a, b| a == b) {
        let known = divisors.len();
        let mut power = 1;
        for prime in same {
            power *= prime;
            divisors.extend_from_within(..known);
            let added = divisors.len() - known;
            divisors[added..].iter_mut().for_each(|divisor| *divisor *= power);
        }
    }
    divisors.sort_unstable();
    Some(divisors)
}

/// Adds the prime factors of an odd number that is more than 1.
fn split(number: u128, primes: &mut Vec<u128>) -> Option<()> {
    if is_prime(number) {
        primes.push(number);
        return Some(());
    }
    let factor = rho(number)?;
    split(factor, primes)?;
    split(number / factor, primes)
}

/// A factor of an odd composite number.
fn rho(number: u128) -> Option<u128> {
    let mut steps = 0;
    for constant in 1.. {
        let next = |x: u128| (multiply(x, x, number) + constant) % number;
        let (mut slow, mut fast, mut product) = (2, 2, 1);
        loop {
            // One gcd for many differences; where they multiply to nothing, the next constant is tried.
            for _ in 0..64 {
                slow = next(slow);
                fast = next(next(fast));
                let difference = slow.abs_diff(fast);
                if difference == 0 {
                    break;
                }
                product = multiply(product, difference, number);
            }
            steps += 64;
            if steps > STEPS {
                return None;
            }
            let found = crate::expression::gcd(product, number);
            if found != 1 && found != number {
                return Some(found);
            }
            if found == number || slow == fast {
                break;
            }
        }
    }
    None
}

/// Miller and Rabin's test with the first 13 primes as bases: no composite below 3.3 * 10^24 passes (Sorenson and
/// Webster, "Strong pseudoprimes to twelve prime bases", 2015), and none is known beyond.
fn is_prime(number: u128) -> bool {
    let twos = (number - 1).trailing_zeros();
    let odd = (number - 1) >> twos;
    [2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41].into_iter().filter(|base| base % number != 0).all(|base| {
        let mut power = 1;
        for bit in (0..128 - odd.leading_zeros()).rev() {
            power = multiply(power, power, number);
            if odd >> bit & 1 == 1 {
                power = multiply(power, base, number);
            }
        }
        let mut passes = power == 1 || power == number - 1;
        for _ in 1..twos {
            power = multiply(power, power, number);
            passes |= power == number - 1;
        }
        passes
    })
}

/// `a * b % modulus` for `a` and `b` less than `modulus`, which is less than 2^100.
fn multiply(a: u128, b: u128, modulus: u128) -> u128 {
    if let Ok(modulus) = u64::try_from(modulus) {
        return (a * b) % u128::from(modulus);
    }
    let mut product = 0;
    for shift in [84, 56, 28, 0] {
        let digit = b >> shift & 0xfff_ffff;
        product = ((product << 28) % modulus + a * digit % modulus) % modulus;
    }
    product
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_numbers_by_trial() {
        for number in 1..3000_u128 {
            let tried: Vec<u128> = (1..=number).filter(|divisor| number % divisor == 0).collect();
            assert_eq!(divisors(number), Some(tried));
        }
        assert_eq!(divisors(0), None);
        assert_eq!(divisors(1 << 100), None);
    }

    #[test]
    fn large_factors_are_found() {
        let (p, q, r) = (1_000_003_u128, 9_999_999_967, 2_147_483_647);
        assert_eq!(divisors(p * q), Some(vec![1, p, q, p * q]));
        assert_eq!(divisors(r * r), Some(vec![1, r, r * r]));
        assert_eq!(divisors(q * r * 4).map(|found| found.len()), Some(12));
        // Two factors of 50 bits: more work than is allowed.
        let far = (1 << 49) + 69;
        assert_eq!(divisors(far * ((1 << 50) - 27)), None);
    }
}
