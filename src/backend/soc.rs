//! Identifies the SoC from the device tree, with its known properties (`docs/design/rknpu.md` §6.4, §6.5).

use std::fs;
use std::path::Path;

/// SoCs by their `rockchip,` entry, with their NPU cores.
const SOCS: &[(&str, u32)] = &[
    ("rk3588", 3),
    ("rk3588s", 3),
    ("rk3583", 2),
    ("rk3576", 2),
    ("rk3566", 1),
    ("rk3568", 1),
    ("rk3562", 1),
    ("rv1126b", 1),
    ("rv1103", 1),
    ("rv1106", 1),
];

/// Identifies the SoC of the machine whose `/proc` is at `proc`. Returns `None` if the device tree is absent, hidden
/// (containers) or names no known SoC.
pub fn soc(proc: &Path) -> Option<&'static str> {
    let compatible = fs::read(proc.join("device-tree/compatible")).ok()?;
    // The entries end with NUL, most specific first: the board before the SoC.
    compatible.split(|byte| *byte == 0).find_map(|entry| {
        let name = entry.strip_prefix(b"rockchip,")?;
        SOCS.iter().map(|(soc, _)| *soc).find(|soc| soc.as_bytes() == name)
    })
}

/// The NPU cores of a SoC.
pub fn npu_cores(soc: &str) -> Option<u32> {
    SOCS.iter().find(|(name, _)| *name == soc).map(|(_, cores)| *cores)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn soc_of(name: &str, bytes: &[u8]) -> Option<&'static str> {
        let root = std::env::temp_dir().join(format!("rkllm-soc-{}-{name}", std::process::id()));
        fs::create_dir_all(root.join("device-tree")).unwrap();
        fs::write(root.join("device-tree/compatible"), bytes).unwrap();
        let soc = soc(&root);
        fs::remove_dir_all(&root).unwrap();
        soc
    }

    #[test]
    fn the_soc_is_the_first_entry_that_names_one() {
        assert_eq!(soc_of("5", b"radxa,rock-5b\0rockchip,rk3588\0"), Some("rk3588"));
        assert_eq!(soc_of("5a", b"radxa,rock-5a\0rockchip,rk3588s\0"), Some("rk3588s"));
        assert_eq!(soc_of("evb", b"rockchip,rk3566-evb2-lp4x-v10\0rockchip,rk3566\0"), Some("rk3566"));
    }

    #[test]
    fn an_unknown_soc_is_not_guessed() {
        assert_eq!(soc_of("other", b"raspberrypi,5-model-b\0brcm,bcm2712\0"), None);
        assert_eq!(soc_of("future", b"rockchip,rk3588x\0"), None);
        assert_eq!(soc_of("empty", b""), None);
        assert_eq!(soc(Path::new("/nonexistent")), None);
    }

    #[test]
    fn cores_are_those_of_the_table() {
        assert_eq!(["rk3588", "rk3576", "rk3566", "rk9999"].map(npu_cores), [Some(3), Some(2), Some(1), None]);
    }
}
