//! Squeeze-and-excitation's gate: two small matrix products per sample.

use super::plan::{Places, Plan};

/// What the gate was made of, `[B, mid]` and `[B, squeezed]`.
#[derive(Debug, Clone)]
pub(super) struct Excite {
    mean: Vec<f32>,
    hidden: Vec<f32>,
    pub(super) gate: Vec<f32>,
}

fn sigmoid(x: f32) -> f32 {
    0.5 * (0.5 * x).tanh() + 0.5
}

/// `w x + b` for `w` `[rows, x.len()]`.
fn linear<'a>(w: &'a [f32], b: &'a [f32], x: &'a [f32]) -> impl Iterator<Item = f32> + 'a {
    let rows = w.chunks_exact(x.len()).zip(b);
    rows.map(move |(w, b)| b + w.iter().zip(x).map(|(w, x)| w * x).sum::<f32>())
}

/// `out += v w` for `w` `[v.len(), out.len()]`.
fn add_transposed(w: &[f32], v: &[f32], out: &mut [f32]) {
    for (row, v) in w.chunks_exact(out.len()).zip(v) {
        out.iter_mut().zip(row).for_each(|(o, w)| *o += v * w);
    }
}

/// `dw += v xᵀ`.
fn add_outer(dw: &mut [f32], v: &[f32], x: &[f32]) {
    for (row, v) in dw.chunks_exact_mut(x.len()).zip(v) {
        row.iter_mut().zip(x).for_each(|(w, x)| *w += v * x);
    }
}

fn add(to: &mut [f32], from: &[f32]) {
    to.iter_mut().zip(from).for_each(|(t, f)| *t += f);
}

impl Excite {
    /// The gate of the channels' means `[B, mid]`.
    pub(super) fn forward(plan: &Plan, places: &Places, weights: &[f32], mean: Vec<f32>) -> Self {
        let at = |place: &std::ops::Range<usize>| &weights[place.clone()];
        let (mut hidden, mut gate) = (Vec::new(), Vec::new());
        for mean in mean.chunks_exact(plan.mid) {
            let own: Vec<f32> = linear(at(&places.w_reduce), at(&places.b_reduce), mean).collect();
            let active: Vec<f32> = own.iter().map(|z| z * sigmoid(*z)).collect();
            let logits = linear(at(&places.w_excite), at(&places.b_excite), &active);
            gate.extend(logits.map(sigmoid));
            hidden.extend(own);
        }
        Self { mean, hidden, gate }
    }

    /// From the gate's gradient `[B, mid]` to the means'; adds the parameters' to `grads`.
    pub(super) fn backward(
        &self,
        plan: &Plan,
        places: &Places,
        weights: &[f32],
        dgate: &[f32],
        grads: &mut [f32],
    ) -> Vec<f32> {
        let (mid, s) = (plan.mid, plan.squeezed);
        let mut dmean = vec![0.0; dgate.len()];
        for b in 0..plan.batch {
            let own = b * mid..(b + 1) * mid;
            let hidden = &self.hidden[b * s..(b + 1) * s];
            let active: Vec<f32> = hidden.iter().map(|z| z * sigmoid(*z)).collect();
            let gate = self.gate[own.clone()].iter().zip(&dgate[own.clone()]);
            let dlogits: Vec<f32> = gate.map(|(g, d)| d * g * (1.0 - g)).collect();
            add_outer(&mut grads[places.w_excite.clone()], &dlogits, &active);
            add(&mut grads[places.b_excite.clone()], &dlogits);
            let mut dhidden = vec![0.0; s];
            add_transposed(&weights[places.w_excite.clone()], &dlogits, &mut dhidden);
            for (d, z) in dhidden.iter_mut().zip(hidden) {
                let g = sigmoid(*z);
                *d *= g * (1.0 + z * (1.0 - g));
            }
            add_outer(
                &mut grads[places.w_reduce.clone()],
                &dhidden,
                &self.mean[own.clone()],
            );
            add(&mut grads[places.b_reduce.clone()], &dhidden);
            add_transposed(&weights[places.w_reduce.clone()], &dhidden, &mut dmean[own]);
        }
        dmean
    }
}
