//! Whether a model fits where it would go, before anything is loaded.

use std::fmt;

use super::{Reading, Seat, Worker, load::holds};
use crate::{
    device::DeviceId,
    engine::{
        MemoryCheck,
        build::{Variant, variants},
    },
    model::{
        Model, ModelName,
        need::{CacheType, Load, Need, rounded},
    },
};

/// What is left of a card's memory by its driver and firmware: 15,473 of an A770's
/// 16,304 MiB.
const USABLE_PERCENT: u64 = 95;

/// Arguments that leave a part of the model to the processor, so that what a card needs
/// cannot be told.
const PARTLY: [&str; 8] = [
    "-ot",
    "--override-tensor",
    "-cmoe",
    "--cpu-moe",
    "-ncmoe",
    "--n-cpu-moe",
    "-nkvo",
    "--no-kv-offload",
];

/// How many layers go to the card; fewer than this is a choice.
const LAYERS: [&str; 3] = ["-ngl", "--gpu-layers", "--n-gpu-layers"];

const LAYERS_ALL: u32 = 99;

/// A place where a model does not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shortage {
    /// The engine.
    pub engine: String,
    /// What the model needs there.
    pub need: Need,
    /// What there is, in bytes.
    pub has_bytes: u64,
}

/// A model that fits nowhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{model}` needs {}; {}; lower its `context` or `slots`, take a smaller quantisation, or let an engine span more cards (`devices`)", Needs(.shortages), Has(.shortages))]
pub struct DoesNotFit {
    /// The model.
    pub model: ModelName,
    /// Each engine that takes it.
    pub shortages: Vec<Shortage>,
}

struct Needs<'a>(&'a [Shortage]);

impl fmt::Display for Needs<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.first().map_or(Ok(()), |shortage| shortage.need.fmt(formatter))
    }
}

struct Has<'a>(&'a [Shortage]);

impl fmt::Display for Has<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, Shortage { engine, has_bytes, .. }) in self.0.iter().enumerate() {
            let separator = if place == 0 { "" } else { ", " };
            write!(formatter, "{separator}engine `{engine}` has {}", rounded(*has_bytes))?;
        }
        Ok(())
    }
}

impl Worker {
    /// Why `model` does not fit on the engine of `seat`; `None` when it does, or when
    /// that cannot be told.
    pub(super) fn shortage(
        &self,
        seat: &Seat,
        model: &Model,
        readings: &[Reading],
    ) -> Option<Shortage> {
        let need = need_on(seat, model)?;
        let has_bytes = capacity(seat, readings)?;
        let shortage = Shortage { engine: seat.engine.config().name.clone(), need, has_bytes };
        (need.total() > has_bytes && seat.engine.config().memory_check == MemoryCheck::Refuse)
            .then_some(shortage)
    }

    /// The engines that take `model` and where it fits, as far as `readings` tell.
    ///
    /// # Errors
    /// It fits on none of them.
    pub(super) fn places(
        &self,
        model: &Model,
        readings: &[Reading],
    ) -> Result<Vec<String>, DoesNotFit> {
        let (mut places, mut shortages) = (Vec::new(), Vec::new());
        for seat in self.0.seats.iter().filter(|seat| seat.takes(model)) {
            match self.shortage(seat, model, readings) {
                Some(shortage) if !holds(&seat.engine.status(), &model.name) => {
                    shortages.push(shortage);
                }
                _ => places.push(seat.engine.config().name.clone()),
            }
        }
        if places.is_empty() && !shortages.is_empty() {
            return Err(DoesNotFit { model: model.name.clone(), shortages });
        }
        Ok(places)
    }

    /// What `model` needs on the first engine that takes it.
    pub(super) fn need(&self, model: &Model) -> Option<Need> {
        self.0.seats.iter().filter(|seat| seat.takes(model)).find_map(|seat| need_on(seat, model))
    }
}

/// What a model needs on an engine, if that puts all of it there.
fn need_on(seat: &Seat, model: &Model) -> Option<Need> {
    let config = seat.engine.config();
    let variants = variants(&config.builds, model);
    let variant = variants.first()?;
    if is_partly_elsewhere(variant, model) {
        return None;
    }
    let kept =
        |flags: [&str; 2]| value(variant, model, &flags).map_or(CacheType::F16, CacheType::named);
    model.need(Load {
        context_tokens: model.options.context_tokens,
        slots: model.options.slots,
        keys: kept(["-ctk", "--cache-type-k"]),
        values: kept(["-ctv", "--cache-type-v"]),
        devices: u32::try_from(config.devices.len()).unwrap_or(1),
    })
}

fn is_partly_elsewhere(variant: &Variant, model: &Model) -> bool {
    let words = variant.command.words().iter().chain(&model.options.arguments);
    let has_flag = words.into_iter().any(|word| PARTLY.contains(&word.as_str()));
    let layers = value(variant, model, &LAYERS).and_then(|layers| layers.parse::<u32>().ok());
    has_flag || layers.is_some_and(|layers| layers < LAYERS_ALL)
}

/// What stands behind the last of `flags`; the model's own arguments come last.
fn value<'a>(variant: &'a Variant, model: &'a Model, flags: &[&str]) -> Option<&'a str> {
    let arguments = &model.options.arguments;
    let mut own = arguments.iter().zip(arguments.iter().skip(1));
    let own = own.rfind(|(word, _)| flags.contains(&word.as_str()));
    own.map(|(_, value)| value.as_str()).or_else(|| variant.command.value_of(flags))
}

/// Bytes that an engine could use if it were the only one on its cards, which it is
/// before it starts. Main memory has other users.
fn capacity(seat: &Seat, readings: &[Reading]) -> Option<u64> {
    let config = seat.engine.config();
    let of = |id: &DeviceId| {
        let device = &readings.iter().find(|reading| reading.device.id == *id)?.device;
        let total = device.memory_bytes?;
        match id {
            DeviceId::Pci(_) => Some(total / 100 * USABLE_PERCENT),
            DeviceId::Cpu => {
                let held = seat.engine.status().model;
                let freed =
                    held.and_then(|held| need_on(seat, &held)).map_or(0, |need| need.total());
                let available = total.saturating_sub(device.memory_used_bytes?);
                Some(available.saturating_add(freed).min(total))
            }
        }
    };
    // Nobody knows what an engine elsewhere has.
    if config.devices.is_empty() { None } else { config.devices.iter().map(of).sum() }
}
