"""What the catalogue says about the schemes that make whole rows of a table."""

from __future__ import annotations

from hf_init.schemes._entries import SchemeText

ROW_GROUP = "rows of a table"
TABLE = "the tensor of the source whose rows are meant; bound by the plan"
OWN_TABLE = "the tensor of the source whose rows are read; empty: the tensor's own pretrained rows"
TRAINED = "ranges (start, stop) of the table's trained rows; empty: all. Bound by the plan"
KEYS = "the tokens' texts, each of which seeds its own row; bound by the plan"
HEWITT = "Hewitt, Initializing New Word Embeddings for Pretrained Language Models, 2021"
WEIGHTS = (
    "uniform; characters, by length; exp_first, exp_last: exp(-alpha) from piece to piece; characters_first, both; "
    "first; last"
)
PIECES = {
    "weights": WEIGHTS,
    "alpha": "of the exponential weights",
    "norm": "scale each row to the median or the mean length of the trained rows, or (centred) its distance from their "
    "mean to the median of theirs; leaves the hull",
    "table": TABLE,
    "pieces": "the rows of each new row's pieces; bound by the plan",
    "lengths": "of the pieces, in characters; bound by the plan",
    "trained": TRAINED,
}
HULL = (
    "Mundra et al., An Empirical Comparison of Vocabulary Expansion and Initialization Approaches for Language Models"
)

ROW_TEXTS: dict[str, SchemeText] = {
    "mean": SchemeText(
        ROW_GROUP,
        "the mean of the trained rows, and noise if asked for",
        "w = m + noise * s * z, z ~ N(0, I); m, s mean and standard deviation of the trained rows, column by column",
        {"noise": "as a share of s; 0: equal rows", "table": OWN_TABLE, "trained": TRAINED, "keys": KEYS},
        "Output rows that must hardly be seen: n of them take at most n / (V + n) of the probability. Control tokens. "
        "Longer tables of positions start better from other schemes",
        "",
        HEWITT,
    ),
    "gaussian": SchemeText(
        ROW_GROUP,
        "drawn with the mean and the covariance of the trained rows",
        "w = m + scale * z' Xc / sqrt(V), z ~ N(0, I_V), Xc the V centred trained rows: covariance scale^2 Xc' Xc / V",
        {"scale": "factor on the spread", "table": OWN_TABLE, "trained": TRAINED, "keys": KEYS},
        "Rows without any text to make them of, that should look like trained ones. As output rows they take "
        "probability from the old ones: subtokens or mean don't",
        "",
        HEWITT,
    ),
    "subtokens": SchemeText(
        ROW_GROUP,
        "a weighted mean of the rows of the token's old pieces",
        "w = sum_i a_i e_i, a_i >= 0, sum a_i = 1 exactly; with norm: w * median(|e|) / |w|; centred, m the mean of "
        "the e: m + (w - m) * median(|e - m|) / |w - m|",
        PIECES,
        "New words. Input rows: uniform, with norm=median. Output rows: exp_first or characters, without norm, so that "
        "no old greedy choice changes. Tied: characters_first",
        "",
        "Gee et al., Fast Vocabulary Transfer for Language Model Compression, 2022; Kim et al., EEVE, 2024; Nakash et "
        f"al., AdaptiVocab, 2025; {HULL}, 2024",
    ),
    "description": SchemeText(
        ROW_GROUP,
        "subtokens of a description of the token",
        "as subtokens, with the pieces of the description",
        PIECES,
        "Control tokens, whose name means nothing to the model: give each a few words",
    ),
    "copy": SchemeText(
        ROW_GROUP,
        "an old row, bit for bit",
        "w = e_j",
        {"token": "whose row it is", "table": TABLE, "rows": "one a new row, or one for all; bound by the plan"},
        "A token that should mean what another one means",
    ),
    "interpolate": SchemeText(
        ROW_GROUP,
        "a point between two old rows",
        "linear: (1 - t) a + t b; slerp: (sin((1 - t) o) a + sin(t o) b) / sin o, o the angle between a and b",
        {
            "t": "how far from the first to the second",
            "way": "linear, or slerp along the arc",
            "tokens": "the two whose rows they are",
            "table": TABLE,
            "pairs": "of rows, one a new row, or one for all; bound by the plan",
        },
        "A token between two others; rows of positions between two trained ones",
        "",
        "Shoemake, Animating rotation with quaternion curves, 1985, for slerp",
    ),
    "from_file": SchemeText(
        ROW_GROUP,
        "rows of a file that another tool wrote",
        "w = the file's rows",
        {
            "path": "a .safetensors or .npy file with the rows along the first dimension",
            "tensor": "its name there; empty where there is one",
            "rows": "which of them, one a new row; empty: all in order",
            "sha256": "of the file; bound by the plan",
        },
        "FOCUS, WECHSEL, OFA, Token Distillation: what needs text or training, by its own tool",
        "",
        "Dobler and de Melo, FOCUS, 2023; Minixhofer et al., WECHSEL, 2022; Dobler et al., Token Distillation, 2025",
    ),
    "from_tensor": SchemeText(
        ROW_GROUP,
        "rows of a tensor that is handed over in Python",
        "w = the tensor's rows",
        {
            "sha256": "of the values; taken from them",
            "rows": "which of them, one a new row; empty: all in order",
            "values": "the tensor; in Python only",
        },
        "As from_file, without a file. The plan holds a fingerprint: making the rows again needs the tensor again",
    ),
    "omp": SchemeText(
        ROW_GROUP,
        "of the same tokens as in another model",
        "donor row ~ sum of at most k c_i d_i over shared tokens; w = sum c_i e_i, e_i their rows in the base",
        {
            "donor": "the folder of the other checkpoint; take one that you trust",
            "k": "how many shared tokens at most",
            "donor_table": "the donor's tensor; bound by the plan",
            "table": TABLE,
            "rows": "the donor's row of each new token; bound by the plan",
            "shared": "pairs of rows, the donor's and the base's, of tokens that both have; bound by the plan",
            "sha256": "of the donor's table; bound by the plan",
        },
        "Another tokenizer whose model is at hand, with many tokens in common. Where digits are split otherwise, "
        "arithmetic suffers. Coefficients have signs: rows leave the hull",
        "",
        "Goddard and Fernandes Neto, Training-Free Tokenizer Transplantation via Orthogonal Matching Pursuit, 2025; "
        "Pati, Rezaiifar and Krishnaprasad, Orthogonal matching pursuit, 1993",
    ),
}
