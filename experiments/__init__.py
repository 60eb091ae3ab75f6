"""Tables of results: the paper's experiments and ours. Run one as `python -m experiments.NAME`.

paper                   the paper's Tables 1 to 5 on its own data
comparison              what a network learns from the masks of each method (the main table)
ablation                what each term of the objective is worth, and how far confidences hold
real_selection          the same on real video, for networks of choice
error_analysis          what is learnt wrong and what is missed, by object
continual               rounds in which new objects arrive, and a poisoned round
real_video              the comparison on real video
methods_table           the masks of every method on labelled video, without learning
real_stills             networks judged on labelled photographs and real frames
perfect_choice          the proposals that fit ground truth best, as a file of masks
plane_residual          the constants of the motion cue
tables                  tables of one run, or of several runs together

training_masks          the training masks of every method
recordings              clips, proposals and replays of recordings, each made once
baselines               thresholds, and selection by ground truth
methods                 methods of other papers, one file each
test_time_augmentation  proposals of several views, for Data Distillation
training                trains and judges, in processes
tabletop, paper_data    the data
cache                   results on disk, by their inputs
command_line            shared arguments
"""
