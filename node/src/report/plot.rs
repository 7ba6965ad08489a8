//! Plots as SVG text: lines over time, bars in groups, and who gave how much to whom.

use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::FontTransform;

/// One line of a plot.
#[derive(Debug, Clone)]
pub(crate) struct Series {
    /// Its name in the legend; lines of one name and colour share an entry.
    pub(crate) name: String,
    /// An index into the palette.
    pub(crate) colour: usize,
    /// For a control or a reference.
    pub(crate) dashed: bool,
    /// In the order of x.
    pub(crate) points: Vec<(f64, f64)>,
}

/// Colours told apart by people with the usual kinds of colour blindness (Okabe and Ito, 2008).
const PALETTE: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
    RGBColor(90, 90, 90),
];
const INK: RGBColor = RGBColor(61, 70, 80);
const FAINT: RGBColor = RGBColor(228, 232, 236);
const SIZE: (u32, u32) = (560, 340);

/// Where an axis runs.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Extent {
    /// From 0 to 1, for rewards and shares.
    Unit,
    /// From 0 to a little over the largest value.
    FromZero,
}

/// Lines over a common x axis.
pub(crate) fn lines(title: &str, x_name: &str, y_name: &str, extent: Extent, series: &[Series]) -> String {
    let all = || series.iter().flat_map(|one| one.points.iter());
    let x_end = all().map(|point| point.0).fold(0.0, f64::max);
    let y_top = top(extent, all().map(|point| point.1));
    let mut entries: Vec<Entry> = Vec::new();
    for Series { name, colour, dashed, .. } in series {
        if !entries.iter().any(|entry| entry.name == *name) {
            entries.push(Entry { name: name.clone(), colour: *colour, dashed: *dashed });
        }
    }
    framed([title, x_name, y_name], x_end, y_top, &entries, |chart| {
        for one in series {
            let style = colour(one.colour).stroke_width(if one.dashed { 1 } else { 2 });
            let points = one.points.iter().copied();
            if one.dashed {
                chart.draw_series(DashedLineSeries::new(points, 5, 4, style))?;
            } else {
                chart.draw_series(LineSeries::new(points, style))?;
            }
        }
        Ok(())
    })
}

type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// The palette's colours, and then paler ones.
fn colour(index: usize) -> RGBAColor {
    PALETTE[index % PALETTE.len()].mix(if (index / PALETTE.len()).is_multiple_of(2) { 1.0 } else { 0.45 })
}

/// Of a legend.
struct Entry {
    name: String,
    colour: usize,
    dashed: bool,
}

/// A drawing with its legend below, where it hides nothing, in as many rows as that takes.
fn with_legend(
    entries: &[Entry],
    draw: impl Fn(&DrawingArea<SVGBackend<'_>, Shift>) -> Result<(), DrawError>,
) -> String {
    let (left, right, row_height) = (48, SIZE.0 as i32 - 8, 18);
    let (mut x, mut row) = (left, 0);
    let mut places = Vec::with_capacity(entries.len());
    for entry in entries {
        // What a letter of this size takes at most, nearly.
        let width = 36 + 7 * entry.name.chars().count() as i32;
        if x > left && x + width > right {
            (x, row) = (left, row + 1);
        }
        places.push((x, row_height * row + 8));
        x += width;
    }
    let height = if entries.is_empty() { 0 } else { row_height * (row + 1) + 4 };
    svg((SIZE.0, SIZE.1 + height as u32), |root| {
        let (upper, lower) = root.split_vertically(SIZE.1);
        draw(&upper)?;
        for (Entry { name, colour: index, dashed }, (x, y)) in entries.iter().zip(&places) {
            let (style, gap) = (colour(*index).stroke_width(3), if *dashed { 6 } else { 8 });
            lower.draw(&PathElement::new([(*x, *y), (x + gap, *y)], style))?;
            lower.draw(&PathElement::new([(x + 16 - gap, *y), (x + 16, *y)], style))?;
            lower.draw(&Text::new(name.clone(), (x + 21, y - 6), ("sans-serif", 12).into_font().color(&INK)))?;
        }
        Ok(())
    })
}

/// A chart with title, axes from zero, and a legend.
fn framed(
    [title, x_name, y_name]: [&str; 3],
    x_end: f64,
    y_top: f64,
    entries: &[Entry],
    draw: impl Fn(&mut Chart<'_, '_>) -> Result<(), DrawError>,
) -> String {
    with_legend(entries, |root| {
        let mut chart = ChartBuilder::on(root)
            .caption(title, ("sans-serif", 16).into_font().color(&INK))
            .margin(8)
            .x_label_area_size(38)
            .y_label_area_size(48)
            .build_cartesian_2d(0.0..x_end.max(1e-9), 0.0..y_top)?;
        chart
            .configure_mesh()
            .light_line_style(WHITE)
            .bold_line_style(FAINT)
            .axis_style(INK)
            .label_style(("sans-serif", 12).into_font().color(&INK))
            .x_desc(x_name)
            .y_desc(y_name)
            .x_labels(6)
            .y_labels(6)
            .x_label_formatter(&|value| short(*value))
            .y_label_formatter(&|value| short(*value))
            .draw()?;
        draw(&mut chart)
    })
}

/// A line with an interval around each of its points.
#[derive(Debug, Clone)]
pub(crate) struct Band {
    /// Its name in the legend.
    pub(crate) name: String,
    /// An index into the palette.
    pub(crate) colour: usize,
    /// x, y and half the interval's width, in the order of x.
    pub(crate) points: Vec<(f64, f64, f64)>,
}

impl Band {
    fn entry(&self) -> Entry {
        Entry { name: self.name.clone(), colour: self.colour, dashed: false }
    }
}

/// Lines with their intervals over a common x axis.
pub(crate) fn banded(title: &str, x_name: &str, y_name: &str, extent: Extent, bands: &[Band]) -> String {
    let all = || bands.iter().flat_map(|one| one.points.iter());
    let x_end = all().map(|point| point.0).fold(0.0, f64::max);
    let highs: Vec<f64> = all().map(|point| point.1 + point.2).collect();
    let y_top = top(extent, highs.iter());
    let entries: Vec<Entry> = bands.iter().map(Band::entry).collect();
    framed([title, x_name, y_name], x_end, y_top, &entries, |chart| {
        let within = |y: f64| y.clamp(0.0, y_top);
        for one in bands.iter().filter(|one| one.points.iter().any(|point| point.2 > 0.0)) {
            let upper = one.points.iter().map(|(x, y, margin)| (*x, within(y + margin)));
            let lower = one.points.iter().rev().map(|(x, y, margin)| (*x, within(y - margin)));
            let outline: Vec<(f64, f64)> = upper.chain(lower).collect();
            let colour = PALETTE[one.colour % PALETTE.len()].mix(0.15);
            chart.draw_series(std::iter::once(Polygon::new(outline, colour.filled())))?;
        }
        for one in bands {
            let points = one.points.iter().map(|(x, y, _)| (*x, *y));
            chart.draw_series(LineSeries::new(points, colour(one.colour).stroke_width(2)))?;
        }
        Ok(())
    })
}

/// Points with intervals around them, joined by lines; and a level that they are compared with, dashed.
pub(crate) fn points(
    [title, x_name, y_name]: [&str; 3],
    extent: Extent,
    bands: &[Band],
    level: Option<(&str, f64)>,
) -> String {
    /// The palette's grey.
    const GREY: usize = PALETTE.len() - 1;
    let all = || bands.iter().flat_map(|one| one.points.iter());
    let x_end = 1.05 * all().map(|point| point.0).fold(0.0, f64::max);
    let highs: Vec<f64> = all().map(|point| point.1 + point.2).collect();
    let y_top = top(extent, highs.iter());
    let below = level.map(|(name, _)| Entry { name: name.to_owned(), colour: GREY, dashed: true });
    let entries: Vec<Entry> = bands.iter().map(Band::entry).chain(below).collect();
    framed([title, x_name, y_name], x_end, y_top, &entries, |chart| {
        let within = |y: f64| y.clamp(0.0, y_top);
        for one in bands {
            let style = colour(one.colour).stroke_width(2);
            let bars = one.points.iter().filter(|point| point.2 > 0.0).map(|(x, y, margin)| {
                PathElement::new([(*x, within(y - margin)), (*x, within(y + margin))], style.stroke_width(1))
            });
            chart.draw_series(bars)?;
            chart.draw_series(LineSeries::new(one.points.iter().map(|(x, y, _)| (*x, *y)), style))?;
            chart.draw_series(one.points.iter().map(|(x, y, _)| Circle::new((*x, *y), 3, style.filled())))?;
        }
        if let Some((_, level)) = level {
            let style = colour(GREY).stroke_width(1);
            chart.draw_series(DashedLineSeries::new([(0.0, level), (x_end, level)], 5, 4, style))?;
        }
        Ok(())
    })
}

/// Groups of bars: one group per name, one bar per member. Members, where there are several, appear in the legend.
pub(crate) fn bars(
    title: &str,
    y_name: &str,
    extent: Extent,
    members: &[&str],
    groups: &[(String, Vec<f64>)],
) -> String {
    let y_top = top(extent, groups.iter().flat_map(|group| group.1.iter()));
    let width = members.len().max(1) as f64 + 1.0;
    let entry = |(colour, name): (usize, &&str)| Entry { name: (*name).to_owned(), colour, dashed: false };
    let entries: Vec<Entry> = members.iter().enumerate().filter(|_| members.len() > 1).map(entry).collect();
    with_legend(&entries, |root| {
        let mut chart = ChartBuilder::on(root)
            .caption(title, ("sans-serif", 16).into_font().color(&INK))
            .margin(8)
            .x_label_area_size(24)
            .y_label_area_size(48)
            .build_cartesian_2d(0.0..width * groups.len().max(1) as f64, 0.0..y_top)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(WHITE)
            .bold_line_style(FAINT)
            .axis_style(INK)
            .label_style(("sans-serif", 12).into_font().color(&INK))
            .y_desc(y_name)
            .y_labels(6)
            .x_labels(0)
            .y_label_formatter(&|value| short(*value))
            .draw()?;
        for member in 0..members.len() {
            chart.draw_series(groups.iter().enumerate().map(|(at, (_, values))| {
                let left = at as f64 * width + 0.5 + member as f64;
                let height = values.get(member).copied().unwrap_or(0.0);
                Rectangle::new([(left, 0.0), (left + 0.9, height)], colour(member).filled())
            }))?;
        }
        for (at, (name, _)) in groups.iter().enumerate() {
            let middle = chart.backend_coord(&((at as f64 + 0.5) * width, 0.0));
            let style = ("sans-serif", 12).into_font().color(&INK);
            let shift = name.chars().count() as i32 * 3;
            root.draw(&Text::new(name.clone(), (middle.0 - shift, middle.1 + 8), style))?;
        }
        Ok(())
    })
}

/// A square table in colours: row gave, column took.
pub(crate) fn matrix(
    title: &str,
    rows_name: &str,
    columns_name: &str,
    names: &[String],
    values: &[Vec<f64>],
) -> String {
    let largest = values.iter().flatten().copied().fold(0.0, f64::max).max(1e-9);
    let (left, upper, cell) = (110, 62, 62);
    let size = (left + cell * names.len() as i32 + 16, upper + cell * names.len() as i32 + 16);
    svg((size.0.max(300) as u32, size.1 as u32), |root| {
        let label = |size: i32| ("sans-serif", size).into_font().color(&INK);
        root.draw(&Text::new(title.to_owned(), (8, 6), label(16)))?;
        root.draw(&Text::new(columns_name.to_owned(), (left, 28), label(12)))?;
        let turned = ("sans-serif", 12).into_font().transform(FontTransform::Rotate270).color(&INK);
        root.draw(&Text::new(rows_name.to_owned(), (4, upper + cell * names.len() as i32 / 2), turned))?;
        for (at, name) in names.iter().enumerate() {
            let offset = cell * at as i32;
            root.draw(&Text::new(name.clone(), (left + offset + 4, 46), label(12)))?;
            root.draw(&Text::new(name.clone(), (24, upper + offset + cell / 2 - 6), label(12)))?;
            for (column, value) in values.get(at).into_iter().flatten().enumerate() {
                let (x, y) = (left + cell * column as i32, upper + offset);
                let shade = PALETTE[0].mix(0.08 + 0.82 * value / largest);
                root.draw(&Rectangle::new([(x, y), (x + cell - 3, y + cell - 3)], shade.filled()))?;
                let ink = if *value > 0.55 * largest { WHITE } else { INK };
                let style = ("sans-serif", 13).into_font().color(&ink);
                root.draw(&Text::new(short(*value), (x + 12, y + cell / 2 - 8), style))?;
            }
        }
        Ok(())
    })
}

/// One chart among others.
#[derive(Debug, Clone)]
pub(crate) struct Panel {
    /// Above it.
    pub(crate) title: String,
    /// Its lines; points with a coordinate that is not positive are left out.
    pub(crate) series: Vec<Series>,
}

/// Charts two in a row, both axes logarithmic, each with its own legend.
pub(crate) fn panels(x_name: &str, y_name: &str, panels: &[Panel]) -> String {
    let rows = panels.len().div_ceil(2).max(1);
    let columns = panels.len().clamp(1, 2);
    svg((SIZE.0 * columns as u32, (SIZE.1 + 120) * rows as u32), |root| {
        for (area, panel) in root.split_evenly((rows, columns)).iter().zip(panels) {
            log_lines(area, x_name, y_name, panel)?;
        }
        Ok(())
    })
}

fn log_lines(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    x_name: &str,
    y_name: &str,
    panel: &Panel,
) -> Result<(), DrawError> {
    let is_positive = |point: &&(f64, f64)| point.0 > 0.0 && point.1 > 0.0;
    let all = || panel.series.iter().flat_map(|one| one.points.iter()).filter(is_positive);
    let range = |values: &mut dyn Iterator<Item = f64>| {
        let (low, high) = values.fold((f64::INFINITY, 0.0_f64), |(low, high), one| (low.min(one), high.max(one)));
        // A range of one value, or of none, is no range.
        if low < high { (low / 1.3)..(high * 1.3) } else { (high.max(1.0) / 2.0)..(high.max(1.0) * 2.0) }
    };
    let x_range = range(&mut all().map(|point| point.0));
    let y_range = range(&mut all().map(|point| point.1));
    let mut chart = ChartBuilder::on(area)
        .caption(&panel.title, ("sans-serif", 16).into_font().color(&INK))
        .margin(8)
        .x_label_area_size(38)
        .y_label_area_size(48)
        .build_cartesian_2d(x_range.log_scale(), y_range.log_scale())?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .bold_line_style(FAINT)
        .axis_style(INK)
        .label_style(("sans-serif", 12).into_font().color(&INK))
        .x_desc(x_name)
        .y_desc(y_name)
        .x_label_formatter(&|value| short(*value))
        .y_label_formatter(&|value| short(*value))
        .draw()?;
    for one in &panel.series {
        let style = PALETTE[one.colour % PALETTE.len()].stroke_width(if one.dashed { 1 } else { 2 });
        let points = one.points.iter().filter(is_positive).copied();
        let drawn = if one.dashed {
            chart.draw_series(DashedLineSeries::new(points, 5, 4, style))?
        } else {
            chart.draw_series(LineSeries::new(points, style))?
        };
        drawn.label(one.name.clone()).legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], style));
    }
    if !panel.series.is_empty() {
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.8))
            .border_style(FAINT)
            .label_font(("sans-serif", 11).into_font().color(&INK))
            .draw()?;
    }
    Ok(())
}

/// Draws into a string. The SVG backend writes to memory, which cannot fail; should a shape be refused
/// all the same, the reader sees why in its place.
fn svg(size: (u32, u32), draw: impl Fn(&DrawingArea<SVGBackend<'_>, Shift>) -> Result<(), DrawError>) -> String {
    let mut text = String::new();
    let result = {
        let root = SVGBackend::with_string(&mut text, size).into_drawing_area();
        root.fill(&WHITE).and_then(|()| draw(&root)).and_then(|()| root.present())
    };
    match result {
        Ok(()) => text,
        Err(error) => format!("<p>This plot could not be drawn: {}</p>", super::page::escape(&error.to_string())),
    }
}

type DrawError = DrawingAreaErrorKind<<SVGBackend<'static> as DrawingBackend>::ErrorType>;

fn top<'a>(extent: Extent, values: impl Iterator<Item = impl std::borrow::Borrow<f64> + 'a>) -> f64 {
    match extent {
        Extent::Unit => 1.0,
        Extent::FromZero => values.map(|value| *value.borrow()).fold(0.0, f64::max).max(1e-9) * 1.08,
    }
}

/// A number as an axis shows it: 12k, 3.4, 0.25.
fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 1e6 => format!("{:.1}M", value / 1e6),
        size if size >= 1e4 => format!("{:.0}k", value / 1e3),
        size if size >= 10.0 || value == value.round() => format!("{value:.0}"),
        size if size >= 1.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plot_shows_its_names_and_as_many_lines_as_given() {
        let series = |name: &str, dashed| Series {
            name: name.into(),
            colour: 0,
            dashed,
            points: vec![(0.0, 0.1), (1.0, 0.5), (2.0, 0.9)],
        };
        let svg =
            lines("held-out", "steps", "reward", Extent::Unit, &[series("ada & co", false), series("alone", true)]);
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        assert!(svg.contains("ada &amp; co") && svg.contains("alone") && svg.contains("held-out"));
    }

    /// Names that one row has no room for go to the next, and the drawing is as much higher; none hides the lines.
    #[test]
    fn a_legend_takes_the_rows_that_it_needs() {
        let band = |colour: usize| Band {
            name: format!("a strategy, number {colour}"),
            colour,
            points: vec![(1.0, 0.5, 0.1)],
        };
        let height = |count: usize| {
            let svg = banded("t", "x", "y", Extent::Unit, &(0..count).map(band).collect::<Vec<_>>());
            assert!((0..count).all(|number| svg.contains(&format!("a strategy, number {number}"))));
            svg.split("height=\"")
                .nth(1)
                .and_then(|rest| rest.split('"').next()?.parse::<u32>().ok())
                .expect("a height")
        };
        // A name takes 36 + 7 * 20 of 504 points in width: two in a row.
        assert_eq!([0, 1, 2, 3, 9].map(height), [340, 362, 362, 380, 434]);
    }

    #[test]
    fn empty_data_still_draws() {
        assert!(lines("t", "x", "y", Extent::FromZero, &[]).contains("</svg>"));
        assert!(bars("t", "y", Extent::FromZero, &[], &[]).contains("</svg>"));
        assert!(matrix("t", "r", "c", &[], &[]).contains("</svg>"));
        assert!(panels("x", "y", &[]).contains("</svg>"));
        let one = Series { name: "one".into(), colour: 0, dashed: true, points: vec![(8.0, 0.0), (64.0, 1.5)] };
        let panel = Panel { title: "a & b".into(), series: vec![one] };
        let svg = panels("x", "y", &[panel.clone(), panel.clone(), panel]);
        assert_eq!(svg.matches("a &amp; b").count(), 3);
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(
            ["0.25", "3.4", "12", "25k", "1.5M", "0"].map(String::from),
            [0.25, 3.4, 12.3, 25_000.0, 1.5e6, 0.0].map(short)
        );
    }
}
