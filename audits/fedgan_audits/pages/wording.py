"""The fixed sentences of a report, in one place, so that they can be reviewed by a lawyer and translated.

House rule, kept by a test over every rendered page: no sentence claims that a law is met, that nobody can be
identified, that alteration is impossible, or that anything is certain. What is proved is said with its assumptions.
"""

from __future__ import annotations

from fedgan_audits.facts import Assessment, Layer

DOES_NOT_SHOW = (
    "That an image is of medical use. Quality is measured elsewhere and is not part of this report.",
    "That each hospital's input was honest: hospitals sign for what they did, and nobody can see inside.",
    "That no attack succeeds in practice: this report holds the result of none (section I). Epsilon bounds every "
    "attack, known or not, under the assumptions of section C.",
    "That any law or contract is fulfilled. Section L lists the evidence; the judgement is for people.",
    "Whether earlier releases from the same patients, outside the ledgers named here, added to what they face.",
    "What timing reveals. When a round starts and ends is public; it depends on how long training took and so, weakly, "
    "on the number of patients. Neither this nor any other side channel is covered by epsilon.",
)

SIMULATION_NOTE = (
    "One operator ran all hospitals in one process. That operator saw every hospital's images and keys, and the "
    "hospitals' signatures were made on one machine. Separation between hospitals is rehearsed here, not shown."
)

RUN_LEDGER_NOTE = "{whose} made inside this run: earlier runs on the same patients are not counted in {which} here."

HISTORY_NOTE = (
    "Earlier runs on the same patients count. Over all of them epsilon is {spent} at hospital {name} if every run was "
    "planned before any result was seen; nobody can check that. It is {held} whether or not a later run was chosen "
    "after seeing what an earlier one gave, and that figure counts against a cap."
)

EARLIER_SAMPLING_NOTE = (
    "So that the figures can be computed again, this report lists the mechanisms of the earlier runs, each with its "
    "sampling probability. Of an earlier run whose cohort was not declared, that probability gives away the exact "
    "number of patients, which epsilon does not cover; that run's own reports say so."
)

HISTORY_ASSUMPTION = (
    "Every run in a ledger was planned before any result of another was seen. Where that does not hold, the figure "
    "that counts against caps does (section F)."
)

SELF_TEST_DELTA_NOTE = (
    "Publishing the outcomes of the self-tests may add {added} to delta at this epsilon, more than the declared delta "
    "of {delta}: epsilon is too large for anything to be promised."
)

TAKEN_FROM_DATA_NOTE = (
    "These public settings were taken from the patients' data: {which}. What they reveal is not covered by epsilon. "
    "Separate hospitals must agree on them beforehand."
)

SPLIT_NOTE = (
    "One data set was split over the hospitals. The figures hold for each hospital with the split as it fell; the "
    "split itself depends on all patients."
)

PRETRAINING_NOTE = (
    "The first weights did not come from a seed alone: {source}. What that training cost its patients is in the "
    "reports of that run, and is counted here only where a hospital's ledger lists that run."
)

START_NOTE = "The generator started from public data: {start}."

RELEASE_NOTE = (
    "Round 1 is the release: every hospital makes one vector of each of its patients, adds them up once and adds "
    "noise. What that costs is composed with all rounds after it, in every figure here."
)

RELEASE_ALONE_NOTE = (
    "The whole run is one release: every hospital makes one vector of each of its patients, adds them up once and adds "
    "noise. No step of training looks at their images."
)

NO_PRIVACY_NOTE = (
    "The run was started without privacy. No noise was added, epsilon is unbounded, and nothing limits what the "
    "model can reveal about a patient."
)

INSECURE_NOTE = (
    "Randomness was fixed for a test. Keys, masks, sampling and noise can be predicted, so nothing in "
    "this report holds."
)

IMAGE_UNIT_NOTE = (
    "The unit is one image, not one patient: the images name no patient. A patient with several images is less "
    "protected than the figure says; section F gives figures for several images."
)

CLOCK_NOTE = (
    "The coordinator's clock went backwards during this round, so its times cannot be right. The order of the rounds "
    "does not rest on times: each report names the one before it."
)

PHANTOM_NOTE = "The images are drawn phantoms, not pictures of people. The figures are computed as if they were."

ACCESSES = (
    "Training of the discriminator on real images: covered by epsilon.",
    "Training of the generator: it sees the discriminator alone, which is post-processing and costs nothing more.",
    "Normalisation: fixed constants, not taken from the data; costs nothing.",
    "Tuning on real images: none in this run. Choosing settings after looking at results on the same patients"
    " is not counted.",
    "Metrics on real images: none is published by this run.",
)

START_ACCESS = "The public start: made from public data before the run; it looks at no patient and costs nothing."

RELEASE_ACCESS = (
    "The release in round 1, with every patient in it once: covered by epsilon. What the vector of a patient is: "
    "{statistic}."
)

FEATURES_ACCESS = (
    "The features behind that vector were fixed in public before the run, so computing them of real images costs "
    "nothing beyond the release and the steps that use them: {features}."
)

HEADS_ACCESSES = (
    "Training of small networks on those features of real images, from round 2 on: covered by epsilon.",
    "Training of the generator: it sees the released sum and those small networks alone, which is post-processing and "
    "costs nothing more.",
)

RELEASE_USE_ACCESS = (
    "What is computed from the released sum, such as means of classes, colours and the change of the pictures: "
    "post-processing, costs nothing more."
)

PRETRAINING_ACCESS = (
    "Pretraining: {source}. The start from those weights is post-processing of what that run released. What that run "
    "cost its patients is in the figure above only where a hospital's own ledger lists it."
)

OUTPUTS = (
    "The updates that leave a hospital, each of them and all of them together, and everything computed from "
    "them: the "
    "global model of every round, the sample pictures, the generated images.",
)

ASSUMPTIONS = (
    "Every patient is drawn in every step by an independent coin of the stated probability; the coins stay in"
    " the hospital.",
    "The code clips and adds noise as stated; noise is Gaussian in floating point, whose finite precision is "
    "not covered "
    "by the proof (Mironov 2012).",
    "The weights that a step starts from are those that training gives. Weights made to amplify the rounding of 32-bit "
    "arithmetic are not covered: with them one patient can change how the others are rounded.",
    "The operating system's random source is unpredictable.",
    "What stays in a hospital (losses, realised batch sizes, the annex) is not released. Timing is public and not "
    "covered (section B).",
    "A patient counts once in one hospital. For a patient known to two hospitals, section F gives the figure.",
)

STEP_ASSUMPTIONS = (ASSUMPTIONS[0], ASSUMPTIONS[2])
"""Assumptions about steps of training: they say nothing of a run that is a release alone."""

RELEASE_ASSUMPTIONS = (
    "In the release every patient takes part once, with a vector of the stated norm at most, after rounding too.",
    "What the vector is (its layout, its weights, its norm) was fixed before the run, and not by looking at patients.",
    "The features of one image depend on no other image, in 32-bit arithmetic too.",
)

RELEASE_OUTPUTS = (
    "The noisy vector that leaves a hospital in round 1, and everything computed from it: the model, the sample "
    "pictures, the generated images.",
)

RELEASE_OUTPUTS_DISTRIBUTED = (
    "The sum over hospitals of round 1, and everything computed from it: the model, the sample pictures, the generated "
    "images. What a single hospital sends is hidden by secure aggregation and not covered by the figure.",
)

OUTPUTS_DISTRIBUTED = (
    "The sum over hospitals of every step, all of them together, and everything computed from them: the weights that "
    "the coordinator sends for the next step, the global model of every round, the sample pictures, the generated "
    "images. What a single hospital sends is hidden by secure aggregation and not covered by the figure.",
)

ASSUMPTIONS_DISTRIBUTED = (
    ASSUMPTIONS[0],
    "The code clips, rounds and adds noise as stated, at the declared number of honest hospitals at least; noise is on "
    "the integers and drawn exactly, the clipped gradients before it are in floating point.",
    "Secure aggregation hides what a single hospital sends (section G), and no sum of fewer hospitals than the "
    "threshold is released.",
    "The coordinator's optimiser steps are computed from the sums alone. Hospitals do not compute them again: in exact "
    "arithmetic the figure does not depend on it; in 32-bit arithmetic see the next assumption.",
    *ASSUMPTIONS[2:],
)

SECOND_DISTRIBUTED = "none: shared integer noise is proved by Rényi differential privacy alone, so both figures are one"

TWO_HOSPITALS_DISTRIBUTED = (
    "A patient whom two hospitals know is in both data sets, and both records enter the same sum. The figure bounds "
    "that by group privacy of two, which is looser than composition."
)

BEYOND_AGGREGATION = "; more than secure aggregation withstands where the coordinator lies (section G)"

SETTING_PER_HOSPITAL = (
    "Each hospital adds all of the noise itself. The figure holds against everyone else together: the "
    "coordinator and "
    "all other hospitals. It does not rest on secure aggregation."
)
SETTING_DISTRIBUTED = (
    "Each hospital adds a share of the noise, and only the sum over hospitals, which carries all of it, is seen. The "
    "figure holds against the coordinator together with the number of colluding hospitals that it was declared for, "
    "and not against more; section F says what is left then. It rests on secure aggregation (section G): whoever "
    "breaks that sees single hospitals' sums under one share of the noise each."
)

NOT_COVERED = (
    "There is no proof that an input is honest; a hospital can spoil the model.",
    "The sum is visible to the coordinator and to every hospital.",
    "The code is not constant-time.",
    "Nothing here resists a future quantum computer.",
    "A hospital checks that the sum it received is the one that was signed, not that the coordinator added correctly.",
)

RANDOM_SOURCE = (
    "The operating system's cryptographic random source, for keys, masks, sampling and the key of the noise stream."
)

SELF_TEST_TEXT = (
    "Each hospital holds what its software did against what was recorded, before anything is handed on. A "
    "contradiction ends the run. The figures behind the outcomes depend on patients and stay in that hospital's "
    "confidential annex. A test that could not yet see its fault in a cohort of the declared size reads NOT ASSESSED. "
    "Publishing the outcomes is counted: a sound mechanism fails with a tiny probability, which adds to delta."
)

INCREASE_TEXT = (
    "The increase of one round is the difference of two proved figures. It is an orientation, not itself a proved "
    "figure: only the cumulative epsilon is."
)

TWO_HOSPITALS_TEXT = (
    "A patient whom two hospitals know is in both data sets. Their figure is the composition of both hospitals' "
    "mechanisms: larger than for one hospital, smaller than the sum. It holds at the same delta. Target and caps are "
    "each hospital's own and are not held against this figure; whether it is small enough is for people to decide."
)

DECLARED_HOSPITALS_TEXT = (
    "The federation declared in how many of its hospitals one patient may be. This is the figure for such a patient; "
    "the target and the caps are each hospital's own. Nobody compares the hospitals' patients, so the bound is not "
    "checked: for a patient in more hospitals than declared the figure is larger."
)

SEVERAL_IMAGES_PATIENT = (
    "The unit is the patient: the figure holds for all images of a patient together, however many (two "
    "eyes, many slices)."
)

EMPIRICAL_TEXT = (
    "Not assessed in this report. The command fedgan-secure attack tries an attack on the training that the policy "
    "describes, with made-up patients; what it finds is for whoever runs it and no part of this report. Copies of "
    "images are not searched for."
)

WITHDRAWALS_TEXT = (
    "A patient may withdraw at any time. The hospital leaves them out of every step from its next round on. That does "
    "not undo what was released before: models and reports stay as they are, and what was spent for that patient stays "
    "spent. Divisors, sampling and the figures of this report are the same whether or not anybody withdrew. Whether "
    "anybody did would tell who was in the data, which epsilon does not cover, so it stands in that hospital's "
    "confidential annex; this text is the same in every report."
)

GOVERNANCE_TEXT = "What is listed here was declared by people. The software repeats it and cannot check it."
GOVERNANCE_EMPTY = (
    "Nothing was declared: controllers, data protection officer, purpose, legal basis, impact assessment, "
    "agreements, "
    "transfers, retention."
)

DEID_PROFILE = "Not assessed: no DICOM confidentiality profile is applied or checked in this version."

VERIFY_TEXT = (
    "Compare keys with those that the hospitals gave you by another way, such as a phone call or a letter. The keys "
    "under trust/ are there for convenience: whoever altered a report could have altered them too."
)

NIST_ROWS: tuple[tuple[Layer, str, Assessment, str], ...] = (
    (
        "top",
        "Epsilon and the unit of privacy",
        "evidenced",
        "Sections C and F; recomputed by audit verify with two accountants.",
    ),
    (
        "middle",
        "Algorithm correctness",
        "declared",
        "Section E: in every step each hospital's software holds what it did against what was recorded. The outcomes "
        "are each hospital's own word; nobody else can repeat these tests.",
    ),
    ("middle", "Trust model", "evidenced", "Sections C and G say who must be trusted with what."),
    ("middle", "Side channels", "not assessed", "Timing, memory and floating-point effects are not covered."),
    (
        "middle",
        "Access control and budget",
        "declared",
        "Each hospital keeps a ledger, which refuses what exceeds a cap where one is set; section F says who set one.",
    ),
    ("middle", "Utility and bias", "not assessed", "Quality per group of patients is not part of this report."),
    (
        "base",
        "Security of the data and of its collection",
        "not assessed",
        "How images are stored in a hospital and how they were collected.",
    ),
)
