"""What the catalogue says about the schemes of a classifier's last layer."""

from __future__ import annotations

from hf_init.schemes._entries import SchemeText

HEAD_GROUP = "the last layer of a head"

HEAD_TEXTS: dict[str, SchemeText] = {
    "log_prior": SchemeText(
        HEAD_GROUP,
        "a head's bias: how often each label occurs",
        "softmax: b_c = log(counts_c / sum counts); sigmoid: b_c = log(pi_c / (1 - pi_c)); regression: b_c = mean_c",
        {
            "counts": "examples of each row's label, or its frequency, for a softmax over all rows",
            "pi": "share of positives, one number or one a row, for a sigmoid on each",
            "mean": "of the targets, one number or one a row, for a regression",
        },
        "The bias of a head whose weight starts at zeros: the first loss is the entropy of the labels, or the variance "
        "of the targets. counts for one label of many, pi (0.01, say) for detection and multi-label, mean to regress",
        "",
        "Lin et al., Focal Loss for Dense Object Detection (RetinaNet), 2017, for the sigmoid",
    ),
    "etf": SchemeText(
        HEAD_GROUP,
        "one row a class, every two equally far apart",
        "W = gain sqrt(K / (K-1)) (I - 1 1' / K) U, U orthonormal rows",
        {"gain": "the norm of every row"},
        "The last layer of a classifier, often frozen: classes start with the largest angles that they can have",
        "",
        "Papyan, Han and Donoho, Prevalence of Neural Collapse, 2020; Yang et al., Inducing Neural Collapse in "
        "Imbalanced Learning, 2022",
    ),
    "fitted": SchemeText(
        HEAD_GROUP,
        "solved from labelled examples",
        "class_means: w_c = M^-1 m_c, b_c = -m_c' M^-1 m_c/2, M = (1-a) S/s + a I with the a that fits unseen "
        "examples; lda: w_c = S^-1 m_c, b_c = -m_c' S^-1 m_c/2 + log p_c; ridge: (X'X + a I)^-1 X'Y; logistic; then "
        "scaled by the temperature that fits unseen examples",
        {"method": "class_means, lda, ridge or logistic", "data": "SHA-256 of the examples"},
        "The last layer of a head when a few labelled examples are at hand; written as head='ridge', examples=FILE",
        "",
        "Kumar et al., Fine-Tuning can Distort Pretrained Features, 2022, for why; Snell et al., Prototypical "
        "Networks, 2017; Friedman, Regularized Discriminant Analysis, 1989; Hoerl and Kennard, Ridge Regression, 1970; "
        "Ledoit and Wolf, 2004; Guo et al., On Calibration of Modern Neural Networks, 2017",
    ),
}
