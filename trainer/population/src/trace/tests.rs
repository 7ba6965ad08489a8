//! What traces say of clients, and where a broken one is broken.

use super::*;
use crate::availability::Availability;
use crate::device::Work;
use crate::holdings::Holdings;
use crate::population::{Population, Spec};
use crate::random::Stream;

const DEVICES: &str = "device,down_bits_per_s,seconds_per_sample,up_bytes_per_s\n\
    a,8000,0.5,250\nb,80,0.25,500\nc, 800 ,0.125,1000\n";
const TIMES: &str = "device,from_seconds,to_seconds\nb,30,40\na,0,10\nb,10,20\n";

fn devices() -> Arc<DeviceTrace> {
    Arc::new(DeviceTrace::parse(DEVICES.as_bytes()).expect("a trace"))
}

fn population(clients: u32, deal: Deal, availability: Availability) -> Population {
    let spec = Spec { clients, availability, recorded: Some(Recorded { trace: devices(), deal }), ..Spec::default() };
    Population::new(&spec, &Holdings::even(clients, 4), 3).expect("a population")
}

#[test]
fn clients_have_the_devices_of_the_trace() {
    let in_order = population(7, Deal::InOrder, Availability::Always);
    let device = |client| in_order.device(client);
    assert_eq!(
        (device(0).seconds_per_sample, device(0).down_bytes_per_s, device(0).up_bytes_per_s),
        (0.5, 1000.0, 250.0)
    );
    assert_eq!(
        (device(5).seconds_per_sample, device(5).down_bytes_per_s, device(5).up_bytes_per_s),
        (0.125, 100.0, 1000.0)
    );
    assert_eq!(device(3), device(0));
    // What the trace does not say is drawn: 50 ms each way, 4 samples, 2 epochs, 4000 bytes.
    assert_eq!(device(1).latency_s, 0.05);
    let work = Work { epochs: 2, bytes_down: 4000, bytes_up: 4000 };
    assert_eq!(in_order.task_seconds(0, &work), 0.05 + 4.0 + 4.0 + 0.05 + 16.0);
    // A client has one device, whole, and all are used as often.
    let shuffled = population(9, Deal::Shuffled, Availability::Always);
    let mut counts = [0; 3];
    for client in 0..9 {
        let found = shuffled.device(client);
        let row = (0..3).find(|row| device(*row) == found).expect("a device of the trace");
        counts[row as usize] += 1;
    }
    assert_eq!(counts, [3, 3, 3]);
    let rows =
        |seed| (0..9).map(|client| Deal::Shuffled.row(seed, Purpose::Device, client, 9, 100)).collect::<Vec<_>>();
    assert!(rows(1) == rows(1) && rows(1) != rows(2));
    let mut few = rows(1);
    few.sort_unstable();
    few.dedup();
    assert!(few.len() == 9 && few[8] > 8, "{few:?}");
}

#[test]
fn times_are_by_device_and_repeat() {
    let rows = times(TIMES.as_bytes(), 60.0, None).expect("times");
    assert_eq!(rows, [vec![[10.0, 20.0], [30.0, 40.0]], vec![[0.0, 10.0]]]);
    let rows = Arc::new(times(TIMES.as_bytes(), 60.0, Some(&devices())).expect("times"));
    assert_eq!(*rows, [vec![[0.0, 10.0]], vec![[10.0, 20.0], [30.0, 40.0]], vec![]]);
    // A client has the times of its device, whoever has which.
    for deal in [Deal::Shuffled, Deal::InOrder] {
        let availability = Availability::Trace { rows: rows.clone(), period_s: 60.0, deal, with_devices: true };
        let population = population(30, deal, availability);
        for client in 0..30 {
            let there: Vec<u32> = (0..12).filter(|at| population.reachable(client, f64::from(at * 10) + 5.0)).collect();
            let expected: &[u32] = match population.device(client).seconds_per_sample {
                0.5 => &[0, 6],
                0.25 => &[1, 3, 7, 9],
                _ => &[],
            };
            assert_eq!(there, expected, "{deal:?} {client}");
        }
    }
    let alone = Availability::Trace { rows, period_s: 60.0, deal: Deal::InOrder, with_devices: true };
    let spec = Spec { clients: 3, availability: alone, ..Spec::default() };
    let error = Population::new(&spec, &Holdings::even(3, 4), 3).expect_err("no devices").to_string();
    assert!(error.starts_with("`availability.with_devices`: rows are of recorded devices"), "{error}");
}

#[test]
fn a_wrong_trace_of_devices_is_refused_where_it_is_wrong() {
    let cases = [
        ("", 1, "nothing; the first line names the columns"),
        ("\n\n", 2, "nothing; the first line"),
        ("device\na\n", 1, "no column says what devices are like; columns are device, seconds_per_sample, overhead_s"),
        ("speed\n1\n", 1, "\"speed\" twice, or no column; columns are device"),
        ("device,device,latency_s\n", 1, "\"device\" twice"),
        ("latency_s,latency_s\n", 1, "\"latency_s\" gives what a column before it gives"),
        ("up_bits_per_s,up_bytes_per_s\n", 1, "\"up_bytes_per_s\" gives what"),
        ("latency_s\n", 1, "no device; it takes a line for each"),
        ("latency_s,overhead_s\n1,2\n\n1\n", 4, "1 fields; there are 2 columns"),
        ("latency_s,overhead_s\n1,2,3\n", 2, "3 fields; there are 2 columns"),
        ("latency_s\n1\nfast\n", 3, "`latency_s`: \"fast\" is not a number from 0 to 1000000000"),
        ("latency_s,overhead_s\n1,\n", 2, "`overhead_s`: \"\" is not a number"),
        ("overhead_s\n-1\n", 2, "`overhead_s`: \"-1\" is not a number from 0"),
        ("seconds_per_sample\nNaN\n", 2, "`seconds_per_sample`: \"NaN\" is not"),
        ("seconds_per_sample\ninf\n", 2, "`seconds_per_sample`: \"inf\" is not"),
        ("down_bytes_per_s\n0\n", 2, "`down_bytes_per_s`: \"0\" is not a number from 0.001 to 1000000000000000"),
        ("down_bits_per_s\n0.001\n", 2, "`down_bits_per_s`: \"0.001\" is not a number from 0.008 to 8000000000000000"),
        ("up_bits_per_s\n1e300\n", 2, "`up_bits_per_s`: \"1e300\" is not"),
        ("device,latency_s\na,1\nb,1\na,1\n", 4, "`device`: \"a\"; it takes a text that no line before has"),
        ("device,latency_s\n,1\n", 2, "`device`: \"\"; it takes"),
        ("latency_s\n\"1\"\n", 2, "`latency_s`: \"\\\"1\\\"\" is not a number"),
    ];
    for (text, line, says) in cases {
        let error = DeviceTrace::parse(text.as_bytes()).expect_err(text);
        assert!(error.line == line && error.message.starts_with(says), "{text:?}: {error}");
    }
    let error = DeviceTrace::parse(b"latency_s\n1\n\xff\n").expect_err("no text");
    assert_eq!(error.to_string(), "line 3: it is not text (UTF-8)");
    let long = format!("latency_s\n{}\n", "1".repeat(5000));
    assert_eq!(DeviceTrace::parse(long.as_bytes()).expect_err("long").message, "5000 bytes; a line has 4096 at most");
    let shown = DeviceTrace::parse(format!("latency_s\n{}\n", "é".repeat(99)).as_bytes()).expect_err("long").message;
    assert!(shown.contains(&format!("\"{}\"", "é".repeat(40))), "{shown}");
    // As tables of Windows and Excel are.
    let other = DeviceTrace::parse(b"\xef\xbb\xbflatency_s , overhead_s\r\n1,2\r\n").expect("a trace");
    assert_eq!(
        (other.devices(), other.says().collect::<Vec<_>>()),
        (1, vec!["devices.overhead_s", "network.latency_s"])
    );
}

#[test]
fn wrong_times_are_refused_where_they_are_wrong() {
    let head = "device,from_seconds,to_seconds\n";
    let cases = [
        ("device,from,to\n", 1, "columns \"device, from, to\"; they are device, from_seconds, to_seconds"),
        ("device,from_seconds,to_seconds,device\n", 1, "columns \"device, from"),
        (head, 1, "no times"),
        (&format!("{head}a,1,2\na,3\n"), 3, "2 fields; there are 3 columns"),
        (&format!("{head},1,2\n"), 2, "`device`: nothing; it takes a text"),
        (&format!("{head}a,-1,2\n"), 2, "`from_seconds`: \"-1\" is not a number from 0 to 60"),
        (&format!("{head}a,61,62\n"), 2, "`from_seconds`: \"61\" is not a number from 0 to 60"),
        (&format!("{head}a,5,4\n"), 2, "`to_seconds`: \"4\" is not a number from 5 to 60"),
        (&format!("{head}a,5,61\n"), 2, "`to_seconds`: \"61\" is not a number from 5 to 60"),
        (&format!("{head}a,5,x\n"), 2, "`to_seconds`: \"x\" is not a number"),
        (&format!("{head}a,5,9\nb,1,2\na,8,10\n"), 4, "from 8 on: line 2 says that of the same device up to 9"),
    ];
    for (text, line, says) in cases {
        let error = times(text.as_bytes(), 60.0, None).expect_err(text);
        assert!(error.line == line && error.message.starts_with(says), "{text:?}: {error}");
    }
    let stranger = times(format!("{head}z,1,2\n").as_bytes(), 60.0, Some(&devices())).expect_err("a stranger");
    assert_eq!(stranger.message, "`device`: \"z\" is none of the 3 devices of the trace of devices");
}

/// Every beginning of a sound trace, and sound traces with bytes changed: an answer, and with an error a line that is there.
#[test]
fn nothing_panics_on_what_is_broken() {
    let mut stream = Stream::new(5, Purpose::Device, 0, 0);
    for sound in [DEVICES.as_bytes(), TIMES.as_bytes()] {
        let mut broken: Vec<Vec<u8>> = (0..sound.len()).map(|end| sound[..end].to_vec()).collect();
        for _ in 0..3_000 {
            let mut text = sound.to_vec();
            for _ in 0..=stream.below(3) {
                let at = stream.below(text.len() as u64) as usize;
                text[at] = stream.bits() as u8;
            }
            broken.push(text);
        }
        for text in broken {
            let lines = text.split(|byte| *byte == b'\n').count();
            let errors = [
                DeviceTrace::parse(&text).err(),
                times(&text, 60.0, None).err(),
                times(&text, 60.0, Some(&devices())).err(),
            ];
            assert!(errors.iter().flatten().count() > 0);
            assert!(errors.iter().flatten().all(|error| (1..=lines).contains(&error.line)), "{errors:?}");
        }
    }
}
