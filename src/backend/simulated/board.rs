//! The boards that the simulated device can be, and the figures in which they differ.

use std::time::Duration;

use super::address_space::{AddressSpace, Growth};
use crate::backend::{DeviceInfo, Kind, Maintenance};
use crate::error::{Error, ErrorCode, Result};
use crate::sys::page::page_size;
use crate::units::{format_bytes, GIB, KIB, MIB};

/// The board to simulate, and its differences. `None` takes the board's own figure.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The SoC; "rk3588" if `None`. The error for an unknown one lists the known ones.
    pub soc: Option<String>,
    /// Bytes that one domain addresses, or of the CMA area: whole pages, at most 4 GiB.
    pub domain_bytes: Option<u64>,
    /// IOMMU domains, 1 to 16; without an IOMMU, only 1.
    pub domains: Option<u32>,
    /// On-chip SRAM, in bytes.
    pub sram_bytes: Option<u64>,
    /// The maximum number of kernel objects.
    pub max_objects: Option<u64>,
    /// The delay of every create, destroy and sync.
    pub latency: Duration,
    /// Whether the CPU's caches are not coherent with the device.
    pub incoherent: bool,
    /// The unit of cache maintenance.
    pub maintenance: Maintenance,
    /// Whether missing syncs are recorded.
    pub check_sync: bool,
}

/// The figures in which boards differ.
struct Board {
    soc: &'static str,
    cores: u32,
    iommu: bool,
    sram: u64,
}

/// The boards of `docs/design/rknpu.md` §6.5. The SRAM is the figure of the vendor's driver (`docs/design/drivers.md`
/// §1).
const BOARDS: &[Board] = &[
    Board { soc: "rk3588", cores: 3, iommu: true, sram: 944 * KIB },
    Board { soc: "rk3588s", cores: 3, iommu: true, sram: 944 * KIB },
    Board { soc: "rk3576", cores: 2, iommu: true, sram: 0 },
    Board { soc: "rk3562", cores: 1, iommu: true, sram: 0 },
    Board { soc: "rk3566", cores: 1, iommu: false, sram: 0 },
    Board { soc: "rk3568", cores: 1, iommu: false, sram: 0 },
];

impl Board {
    fn named(soc: &str) -> Result<&'static Board> {
        BOARDS.iter().find(|board| board.soc == soc).ok_or_else(|| {
            let known: Vec<_> = BOARDS.iter().map(|board| board.soc).collect();
            Error::new(ErrorCode::OutOfRange, format!("no simulated board is called \"{soc}\""))
                .hint(format!("use one of {}", known.join(", ")))
        })
    }
}

/// The start of a CMA area, as on a board with 4 GiB of RAM (`docs/design/drivers.md` §1.1: 0xace40000).
const CMA_BASE: u64 = 0xa000_0000;
const CMA_MAX: u64 = 4 * GIB - CMA_BASE;
const MAX_DOMAINS: u32 = 16;

/// Lays out the board of `options`: its properties, and the address space of each domain or of the CMA area.
///
/// Errors: `ERR_OUT_OF_RANGE` for an unknown board or an impossible figure.
pub(super) fn lay_out(options: &Options) -> Result<(DeviceInfo, Vec<AddressSpace>)> {
    let board = Board::named(options.soc.as_deref().unwrap_or("rk3588"))?;
    let most = if board.iommu { 4 * GIB } else { CMA_MAX };
    let default = if board.iommu { 4 * GIB } else { 256 * MIB };
    let domain_bytes = options.domain_bytes.unwrap_or(default);
    // Page 0 of a domain is never used, so the smallest usable domain has two pages.
    if domain_bytes > most || domain_bytes < 2 * page_size() || !domain_bytes.is_multiple_of(page_size()) {
        return Err(out_of_range("domainBytes", domain_bytes, &format!("whole pages, at most {}", format_bytes(most))));
    }
    let domains = options.domains.unwrap_or(if board.iommu { MAX_DOMAINS } else { 1 });
    if !(1..=if board.iommu { MAX_DOMAINS } else { 1 }).contains(&domains) {
        let allowed = if board.iommu { "1 to 16" } else { "1: this board has no IOMMU" };
        return Err(out_of_range("domains", domains.into(), allowed));
    }
    let sram = options.sram_bytes.unwrap_or(board.sram);
    if !sram.is_multiple_of(page_size()) || sram > 16 * MIB || (sram > 0 && !board.iommu) {
        return Err(out_of_range("sramBytes", sram, "whole pages, at most 16 MiB, and 0 without an IOMMU"));
    }
    let space = || match board.iommu {
        true => AddressSpace::new(page_size(), domain_bytes - page_size(), Growth::TopDown),
        false => AddressSpace::new(CMA_BASE, domain_bytes, Growth::BottomUp),
    };
    let info = DeviceInfo {
        kind: Kind::Simulated,
        path: None,
        soc: Some(board.soc.to_owned()),
        driver_version: Some("0.9.8".to_owned()),
        npu_cores: Some(board.cores),
        iommu: board.iommu,
        domains: if board.iommu { domains } else { 0 },
        domain_bytes,
        sram_total: sram,
    };
    Ok((info, (0..domains).map(|_| space()).collect()))
}

fn out_of_range(option: &str, value: u64, allowed: &str) -> Error {
    Error::new(ErrorCode::OutOfRange, format!("simulated.{option} is {value}; it must be {allowed}"))
}
