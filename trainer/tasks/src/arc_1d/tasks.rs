//! The 70 tasks by name, in reasoning-gym's order: which rule, with which numbers, seen which way.

use super::row::Pair;
use super::{blocks, moving, pixels};
use crate::random::PyRandom;

/// A named task.
#[derive(Debug)]
pub(super) struct Task {
    /// reasoning-gym's name of it.
    pub(super) name: &'static str,
    rule: Rule,
    view: View,
}

impl Task {
    /// Draws an example in rows of `size` cells, at least 8; `None` where the rule refuses what was drawn.
    pub(super) fn draw(&self, rng: &mut PyRandom, size: usize) -> Option<Pair> {
        let (mut input, mut output) = (self.rule)(rng, size)?;
        match self.view {
            View::Plain => Some((input, output)),
            View::Mirrored => {
                input.reverse();
                output.reverse();
                Some((input, output))
            }
            View::Inverse => Some((output, input)),
        }
    }
}

type Rule = fn(&mut PyRandom, usize) -> Option<Pair>;

/// How a rule's example becomes the task's.
#[derive(Debug, Clone, Copy)]
enum View {
    Plain,
    /// Both rows from right to left.
    Mirrored,
    /// The output is shown and the input asked.
    Inverse,
}

const fn plain(name: &'static str, rule: Rule) -> Task {
    Task { name, rule, view: View::Plain }
}

const fn mirrored(name: &'static str, rule: Rule) -> Task {
    Task { name, rule, view: View::Mirrored }
}

const fn inverse(name: &'static str, rule: Rule) -> Task {
    Task { name, rule, view: View::Inverse }
}

/// Every task. The order is part of what is drawn. The rules of gravity pull to the left; the names say otherwise.
pub(super) static TASKS: [Task; 70] = [
    plain("move_1pix_solid_right", |rng, size| Some(moving::solid(rng, size, 1))),
    plain("move_2pix_solid_right", |rng, size| Some(moving::solid(rng, size, 2))),
    plain("move_3pix_solid_right", |rng, size| Some(moving::solid(rng, size, 3))),
    plain("move_4pix_solid_right", |rng, size| Some(moving::solid(rng, size, 4))),
    plain("move_1pix_colorful_right", |rng, size| Some(moving::colourful(rng, size, 1))),
    plain("move_2pix_colorful_right", |rng, size| Some(moving::colourful(rng, size, 2))),
    plain("move_3pix_colorful_right", |rng, size| Some(moving::colourful(rng, size, 3))),
    plain("move_4pix_colorful_right", |rng, size| Some(moving::colourful(rng, size, 4))),
    mirrored("move_1pix_solid_left", |rng, size| Some(moving::solid(rng, size, 1))),
    mirrored("move_2pix_solid_left", |rng, size| Some(moving::solid(rng, size, 2))),
    mirrored("move_3pix_solid_left", |rng, size| Some(moving::solid(rng, size, 3))),
    mirrored("move_4pix_solid_left", |rng, size| Some(moving::solid(rng, size, 4))),
    mirrored("move_1pix_colorful_left", |rng, size| Some(moving::colourful(rng, size, 1))),
    mirrored("move_2pix_colorful_left", |rng, size| Some(moving::colourful(rng, size, 2))),
    mirrored("move_3pix_colorful_left", |rng, size| Some(moving::colourful(rng, size, 3))),
    mirrored("move_4pix_colorful_left", |rng, size| Some(moving::colourful(rng, size, 4))),
    plain("move_1pix_solid_wrapped_right", |rng, size| Some(moving::solid_wrapped(rng, size, 1))),
    plain("move_2pix_solid_wrapped_right", |rng, size| Some(moving::solid_wrapped(rng, size, 2))),
    plain("move_3pix_solid_wrapped_right", |rng, size| Some(moving::solid_wrapped(rng, size, 3))),
    plain("move_4pix_solid_wrapped_right", |rng, size| Some(moving::solid_wrapped(rng, size, 4))),
    plain("move_1pix_colorful_wrapped_right", |rng, size| Some(moving::colourful_wrapped(rng, size, 1))),
    plain("move_2pix_colorful_wrapped_right", |rng, size| Some(moving::colourful_wrapped(rng, size, 2))),
    plain("move_3pix_colorful_wrapped_right", |rng, size| Some(moving::colourful_wrapped(rng, size, 3))),
    plain("move_4pix_colorful_wrapped_right", |rng, size| Some(moving::colourful_wrapped(rng, size, 4))),
    mirrored("move_1pix_solid_wrapped_left", |rng, size| Some(moving::solid_wrapped(rng, size, 1))),
    mirrored("move_2pix_solid_wrapped_left", |rng, size| Some(moving::solid_wrapped(rng, size, 2))),
    mirrored("move_3pix_solid_wrapped_left", |rng, size| Some(moving::solid_wrapped(rng, size, 3))),
    mirrored("move_4pix_solid_wrapped_left", |rng, size| Some(moving::solid_wrapped(rng, size, 4))),
    mirrored("move_1pix_colorful_wrapped_left", |rng, size| Some(moving::colourful_wrapped(rng, size, 1))),
    mirrored("move_2pix_colorful_wrapped_left", |rng, size| Some(moving::colourful_wrapped(rng, size, 2))),
    mirrored("move_3pix_colorful_wrapped_left", |rng, size| Some(moving::colourful_wrapped(rng, size, 3))),
    mirrored("move_4pix_colorful_wrapped_left", |rng, size| Some(moving::colourful_wrapped(rng, size, 4))),
    plain("gravity_right", |rng, size| Some(moving::gravity(rng, size))),
    plain("gravity_counting_right", |rng, size| Some(moving::gravity_counting(rng, size))),
    plain("gravity_antigravity_right", |rng, size| Some(moving::gravity_antigravity(rng, size))),
    plain("gravity_one_step_right", |rng, size| Some(moving::gravity_one_step(rng, size))),
    plain("gravity_weighted_colors_right", |rng, size| Some(moving::gravity_weighted(rng, size))),
    mirrored("gravity_left", |rng, size| Some(moving::gravity(rng, size))),
    mirrored("gravity_counting_left", |rng, size| Some(moving::gravity_counting(rng, size))),
    mirrored("gravity_antigravity_left", |rng, size| Some(moving::gravity_antigravity(rng, size))),
    mirrored("gravity_one_step_left", |rng, size| Some(moving::gravity_one_step(rng, size))),
    mirrored("gravity_weighted_colors_left", |rng, size| Some(moving::gravity_weighted(rng, size))),
    plain("block_touch_dot", |rng, size| pixels::slide_to_dot(rng, size, 1, usize::MAX)),
    plain("block_touch_dot_1pix", |rng, size| pixels::slide_to_dot(rng, size, 2, 1)),
    plain("block_touch_dot_2pix", |rng, size| pixels::slide_to_dot(rng, size, 2, 2)),
    plain("block_touch_dot_3pix", |rng, size| pixels::slide_to_dot(rng, size, 2, 3)),
    plain("block_touch_dot_4pix", |rng, size| pixels::slide_to_dot(rng, size, 2, 4)),
    plain("block_scale_to_dot", pixels::grow_to_dot),
    plain("block_and_noise_remove", blocks::noise_outside),
    plain("block_and_noise_remove_inside", |rng, size| Some(blocks::noise_inside(rng, size))),
    plain("move_block_by_own_size", |rng, size| Some(moving::by_own_size(rng, size))),
    plain("two_points_and_fill", pixels::fill_between),
    inverse("two_points_and_fill_inv", pixels::fill_between),
    plain("copy_block_to_dots", |rng, size| pixels::copy_to_dots(rng, size, pixels::DotColour::Block)),
    plain("copy_block_to_dots_colors", |rng, size| pixels::copy_to_dots(rng, size, pixels::DotColour::Own)),
    plain("repeat_pattern_full", blocks::repeat_pattern),
    plain("reflect_block_with_border_pixel", |rng, size| Some(blocks::reflect_border(rng, size))),
    plain("reflect_block_random", |rng, size| Some(blocks::reflect_colourful(rng, size))),
    plain("reflect_block_around_dot", pixels::reflect_around_dot),
    plain("paint_biggest_block", blocks::paint_biggest),
    plain("recolor_blocks_by_size", blocks::recolour_by_size),
    plain("change_to_five", |rng, size| Some(blocks::change_to_five(rng, size))),
    plain("recolor_blocks_from_palette", blocks::recolour_from_palette),
    plain("color_left_half_blocks", blocks::colour_left_halves),
    plain("sort_blocks_by_size", blocks::sort_by_size),
    plain("sort_complete_sequence", |rng, size| Some(blocks::sort_sequence(rng, size))),
    plain("duplicate_block_from_seeds", |rng, size| Some(pixels::duplicate_from_seeds(rng, size))),
    plain("fill_from_pixel", |rng, size| Some(pixels::fill_from_pixel(rng, size))),
    plain("fill_until_collision", |rng, size| Some(pixels::fill_until_collision(rng, size))),
    plain("mark_size_two_blocks", |rng, size| Some(blocks::mark_twos(rng, size))),
];
