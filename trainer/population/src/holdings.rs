//! How many samples of which class each client holds.

use crate::partition::PartitionError;

/// Per client the number of its samples, and how many it holds of each class. A class of which a client holds nothing
/// takes no memory; 5 bytes are taken per client and class otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holdings {
    samples: Vec<u32>,
    /// Where a client's classes begin in the two lists below, with the end of the last.
    starts: Vec<usize>,
    classes: Vec<u8>,
    counts: Vec<u32>,
}

impl Holdings {
    /// The holdings that a partition makes: `parts` has the indices into `labels` of each client's samples.
    ///
    /// # Errors
    /// [`PartitionError::Index`] where an index is past the labels.
    pub fn new(parts: &[Vec<u32>], labels: &[u8]) -> Result<Self, PartitionError> {
        let mut holdings = Self { samples: Vec::new(), starts: vec![0], classes: Vec::new(), counts: Vec::new() };
        let mut held: Vec<u8> = Vec::new();
        for (client, part) in (0u32..).zip(parts) {
            held.clear();
            for &index in part {
                let samples = labels.len();
                let label = labels.get(index as usize).ok_or(PartitionError::Index { client, index, samples })?;
                held.push(*label);
            }
            held.sort_unstable();
            for class in held.chunk_by(|a, b| a == b) {
                holdings.classes.extend(class.first());
                holdings.counts.push(class.len() as u32);
            }
            holdings.samples.push(part.len() as u32);
            holdings.starts.push(holdings.classes.len());
        }
        Ok(holdings)
    }

    /// Clients that all hold the same number of samples of one class, which is 0: where only time matters.
    pub fn even(clients: u32, samples: u32) -> Self {
        let (n, per) = (clients as usize, usize::from(samples > 0));
        Self {
            samples: vec![samples; n],
            starts: (0..=n).map(|client| client * per).collect(),
            classes: vec![0; n * per],
            counts: vec![samples; n * per],
        }
    }

    /// Number of clients.
    pub fn clients(&self) -> u32 {
        self.samples.len() as u32
    }

    /// Samples of a client; 0 if there is no such client.
    pub fn samples(&self, client: u32) -> u32 {
        self.samples.get(client as usize).copied().unwrap_or(0)
    }

    /// Classes that a client holds, in order, with the number of its samples of each.
    pub fn classes(&self, client: u32) -> impl Iterator<Item = (u8, u32)> + '_ {
        let client = client as usize;
        let range = match (self.starts.get(client), self.starts.get(client + 1)) {
            (Some(&start), Some(&end)) => start..end,
            _ => 0..0,
        };
        let classes = self.classes.get(range.clone()).unwrap_or_default();
        let counts = self.counts.get(range).unwrap_or_default();
        classes.iter().copied().zip(counts.iter().copied())
    }

    /// Samples of a client that are of one of `classes`.
    pub fn of(&self, client: u32, classes: &[u8]) -> u32 {
        self.classes(client).filter(|(class, _)| classes.contains(class)).map(|(_, count)| count).sum()
    }

    /// Memory that is taken, bytes.
    pub fn bytes(&self) -> usize {
        self.samples.capacity() * size_of::<u32>()
            + self.starts.capacity() * size_of::<usize>()
            + self.classes.capacity()
            + self.counts.capacity() * size_of::<u32>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_what_clients_hold() {
        let labels = [3, 3, 0, 255, 0, 3];
        let holdings = Holdings::new(&[vec![0, 1, 2], vec![], vec![3, 4, 5, 5]], &labels).unwrap();
        assert_eq!(holdings.clients(), 3);
        assert_eq!([0, 1, 2, 3].map(|client| holdings.samples(client)), [3, 0, 4, 0]);
        let classes = |client| holdings.classes(client).collect::<Vec<_>>();
        assert_eq!(classes(0), [(0, 1), (3, 2)]);
        assert_eq!(classes(1), []);
        assert_eq!(classes(2), [(0, 1), (3, 2), (255, 1)]);
        assert_eq!(classes(3), []);
        assert_eq!(holdings.of(2, &[3, 255]), 3);
        let error = Holdings::new(&[vec![], vec![6]], &labels).unwrap_err();
        assert_eq!(error.to_string(), "client 1 holds sample 6, but there are 6 samples, counted from 0");
    }

    #[test]
    fn even_holdings_are_those_of_a_partition_into_equal_parts() {
        let parts = [vec![0, 1], vec![2, 3], vec![4, 5]];
        assert_eq!(Holdings::even(3, 2), Holdings::new(&parts, &[0; 6]).unwrap());
        assert_eq!(Holdings::even(2, 0), Holdings::new(&[vec![], vec![]], &[]).unwrap());
    }
}
