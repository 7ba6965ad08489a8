//! Shamir's secret sharing of 32 bytes, each byte for itself: "How to Share a Secret", 1979, over GF(2^8) with the polynomial of
//! AES (FIPS 197, section 4.2). Products take the same time for all values.

/// A secret.
pub(super) type Secret = [u8; 32];

/// What a secret is at the places 1 to `shares`, where any `threshold` of them make it. `random` has `threshold - 1` secrets
/// that nobody knows.
pub(super) fn share(secret: &Secret, shares: u8, random: &[Secret]) -> Vec<Secret> {
    let at = |place: u8| {
        let mut value = [0; 32];
        // Horner's rule, from the highest power.
        for coefficient in random.iter().rev() {
            for (value, coefficient) in value.iter_mut().zip(coefficient) {
                *value = times(*value ^ coefficient, place);
            }
        }
        for (value, secret) in value.iter_mut().zip(secret) {
            *value ^= secret;
        }
        value
    };
    (1..=shares).map(at).collect()
}

/// The secret of shares with their places, which are different and not zero: Lagrange's polynomial at zero.
pub(super) fn recover(shares: &[(u8, Secret)]) -> Secret {
    let mut secret = [0; 32];
    for (place, share) in shares {
        let others = shares.iter().map(|(other, _)| *other).filter(|other| other != place);
        let weight = others.fold(1, |weight, other| times(weight, times(other, inverse(other ^ place))));
        for (secret, share) in secret.iter_mut().zip(share) {
            *secret ^= times(*share, weight);
        }
    }
    secret
}

fn times(mut one: u8, mut other: u8) -> u8 {
    let mut product = 0;
    for _ in 0..8 {
        product ^= one & 0_u8.wrapping_sub(other & 1);
        one = (one << 1) ^ (0x1b & 0_u8.wrapping_sub(one >> 7));
        other >>= 1;
    }
    product
}

/// `x^254`.
fn inverse(x: u8) -> u8 {
    let mut power = x;
    for _ in 0..6 {
        power = times(times(power, power), x);
    }
    times(power, power)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_field_is_that_of_aes() {
        // FIPS 197, section 4.2 and 4.2.1.
        assert_eq!((times(0x57, 0x83), times(0x57, 0x13)), (0xc1, 0xfe));
        for x in 1..=255 {
            assert_eq!(times(x, inverse(x)), 1);
        }
    }

    #[test]
    fn any_three_of_five_shares_make_the_secret_and_two_do_not() {
        let secret: Secret = std::array::from_fn(|at| at as u8 * 7);
        let random: Vec<Secret> =
            [3_u8, 5].iter().map(|with| std::array::from_fn(|at| (at as u8 + 1).wrapping_mul(*with))).collect();
        let shares: Vec<(u8, Secret)> = (1..).zip(share(&secret, 5, &random)).collect();
        for [a, b, c] in [[0, 1, 2], [0, 2, 4], [3, 1, 4], [4, 3, 2]] {
            assert_eq!(recover(&[shares[a], shares[b], shares[c]]), secret);
        }
        assert_eq!(recover(&shares), secret);
        assert_ne!(recover(&shares[..2]), secret);
        // At 1 all coefficients add up: 7 + 2 * 3 + 2 * 5 in the second byte, without carries.
        assert_eq!(shares[0].1[1], 7 ^ 6 ^ 10);
    }
}
