//! Tests of the simulated device against the driver's behaviour.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::units::{GIB, KIB, MIB};

fn device(options: Options) -> Simulated {
    Simulated::new(options).unwrap()
}

#[test]
fn a_4_gib_domain_holds_63_buffers_of_64_mib_as_the_vendor_driver_does() {
    let device = device(Options::default());
    let objects: Vec<_> = (0..63).map(|_| device.create(&Request::plain(64 * MIB)).unwrap()).collect();
    let error = device.create(&Request::plain(64 * MIB)).unwrap_err();
    assert_eq!(error.code(), ErrorCode::IovaExhausted);
    assert_eq!(error.errno(), Some(libc::EFAULT));
    assert_eq!(error.details().largest_free, Some(64 * MIB - page_size()));
    // Another domain has room; its addresses have the same numbers.
    let other = device.create(&Request { domain: 15, ..Request::plain(64 * MIB) }).unwrap();
    assert_eq!(other.device_address, objects[0].device_address);
    objects.iter().chain([&other]).for_each(|object| device.destroy(object.handle).unwrap());
    assert_eq!(device.live(), 0);
    assert_eq!(device.gauges(0).largest_free, Some(4 * GIB - page_size()));
}

#[test]
fn a_cma_area_hands_out_stale_bytes_and_ends_in_einval() {
    let device = device(Options { soc: Some("rk3566".into()), ..Options::default() });
    let object = device.create(&Request::plain(MIB)).unwrap();
    assert!(object.contiguous && !object.zeroed && object.domain.is_none());
    let mut bytes = [0; 16];
    let mapping = device.map(object.handle, 64).unwrap();
    mapping.read(MIB - 16, &mut bytes);
    assert_eq!(bytes, [STALE; 16]);
    let error = device.create(&Request::plain(256 * MIB)).unwrap_err();
    assert_eq!((error.code(), error.errno()), (ErrorCode::OutOfMemory, Some(libc::EINVAL)));
    device.destroy(object.handle).unwrap();
}

#[test]
fn sram_is_used_until_it_runs_out() {
    let device = device(Options { sram_bytes: Some(64 * KIB), ..Options::default() });
    let wanted = Request { placement: Placement::TrySram, ..Request::plain(48 * KIB) };
    let first = device.create(&wanted).unwrap();
    let second = device.create(&wanted).unwrap();
    assert_eq!((first.sram, second.sram), (48 * KIB, 16 * KIB));
    assert!(!first.zeroed, "SRAM keeps its last user's bytes");
    assert_eq!(device.gauges(0).sram_free, 0);
    device.destroy(first.handle).unwrap();
    device.destroy(second.handle).unwrap();
    assert_eq!(device.gauges(0).sram_free, 64 * KIB);
}

#[test]
fn the_limit_of_objects_is_a_limit_of_descriptors() {
    let device = device(Options { max_objects: Some(2), ..Options::default() });
    let a = device.create(&Request::plain(1)).unwrap();
    device.create(&Request::plain(1)).unwrap();
    let error = device.create(&Request::plain(1)).unwrap_err();
    assert_eq!((error.code(), error.errno()), (ErrorCode::TooManyFds, Some(libc::EMFILE)));
    device.destroy(a.handle).unwrap();
    device.create(&Request::plain(1)).unwrap();
}

#[test]
fn impossible_boards_are_refused() {
    let none = Options::default();
    for options in [
        Options { soc: Some("rk9999".into()), ..none.clone() },
        Options { domain_bytes: Some(0), ..none.clone() },
        Options { domain_bytes: Some(4 * GIB + page_size()), ..none.clone() },
        Options { domain_bytes: Some(page_size() * 2 + 1), ..none.clone() },
        Options { domains: Some(0), ..none.clone() },
        Options { domains: Some(17), ..none.clone() },
        Options { soc: Some("rk3566".into()), domains: Some(2), ..none.clone() },
        Options { soc: Some("rk3566".into()), sram_bytes: Some(page_size()), ..none.clone() },
        Options { sram_bytes: Some(1), ..none },
    ] {
        let error = Simulated::new(options.clone()).unwrap_err();
        assert_eq!(error.code(), ErrorCode::OutOfRange, "{options:?}");
    }
}
