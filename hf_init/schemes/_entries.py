"""What the catalogue says about every scheme: a table of text, in the order in which it is shown."""

from __future__ import annotations

from dataclasses import dataclass

GAIN = "factor on the spread: a number, or an activation's name (tanh 5/3; relu, gelu, silu sqrt(2); linear 1)"
SATURATING = "Layers before tanh or sigmoid, and linear ones: the scale of signals and of gradients is kept"
RECTIFYING = "Layers before relu and its kin (gelu, silu): half of the signal is lost, and the factor 2 puts it back"
GLOROT = "Glorot and Bengio, Understanding the difficulty of training deep feedforward neural networks, 2010"
HE = "He, Zhang, Ren and Sun, Delving Deep into Rectifiers, 2015"
LECUN = "LeCun, Bottou, Orr and Mueller, Efficient BackProp, 1998"


@dataclass(frozen=True)
class SchemeText:
    """The words on one scheme; its settings' defaults and its aliases come from the scheme itself.

    Attributes:
        idea: in one line.
        formula: exact, in plain text; ``fan`` is that of the logical matrix, whatever its layout.
        settings: each setting's meaning.
        when: where it fits.
        torch_function: the one it corresponds to; empty where torch has none.
        source: authors, title, year; empty where there is none to name.
    """

    group: str
    idea: str
    formula: str
    settings: dict[str, str]
    when: str
    torch_function: str = ""
    source: str = ""


BASIC_TEXTS: dict[str, SchemeText] = {
    "zeros": SchemeText(
        "constant",
        "every element is 0",
        "w = 0",
        {},
        "Biases; the last projection of a new residual branch, weight and bias, so that the branch starts as nothing; "
        "a classification head whose first loss should be exactly that of guessing. Never two in a row on one path: "
        "both gradients would stay 0",
        "torch.nn.init.zeros_",
        "Goyal et al., Accurate, Large Minibatch SGD, 2017; Zhang et al., ControlNet, 2023, for branches",
    ),
    "ones": SchemeText(
        "constant",
        "every element is 1",
        "w = 1",
        {},
        "The scale of a LayerNorm, a BatchNorm or an RMSNorm that multiplies by w. Norms that multiply by 1 + w "
        "(Gemma) want zeros",
        "torch.nn.init.ones_",
        "Ioffe and Szegedy, Batch Normalization, 2015",
    ),
    "constant": SchemeText(
        "constant",
        "every element is one value",
        "w = val",
        {"val": "the value"},
        "A detection head's bias at -log((1 - p) / p) for a share p of positives; LayerScale at 1e-5; a gate",
        "torch.nn.init.constant_",
        "Lin et al., Focal Loss (RetinaNet), 2017; Touvron et al., Going deeper with Image Transformers, 2021",
    ),
    "uniform": SchemeText(
        "one spread",
        "uniform between two values",
        "w ~ U(a, b)",
        {"a": "lower end", "b": "upper end"},
        "Reproducing a published initialization; torch's own Linear bias is U(-1/sqrt(fan_in), 1/sqrt(fan_in))",
        "torch.nn.init.uniform_",
    ),
    "normal": SchemeText(
        "one spread",
        "normal with one standard deviation",
        "w ~ N(mean, std^2)",
        {"mean": "its mean", "std": "its standard deviation"},
        "Heads and new layers of a pretrained transformer, with the std that its other layers were given (often 0.02); "
        "embeddings, with the std of the trained rows",
        "torch.nn.init.normal_",
        "Radford et al., Improving Language Understanding by Generative Pre-Training, 2018, for 0.02",
    ),
    "trunc_normal": SchemeText(
        "one spread",
        "normal without its tails, cut in standard deviations",
        "w = mean + std * z, z ~ N(0, 1) given a <= z <= b; realised std 0.8796 std for a, b = -2, 2",
        {
            "mean": "of the normal before it is cut",
            "std": "of the normal before it is cut",
            "a": "lower bound, in standard deviations from the mean",
            "b": "upper bound, in standard deviations from the mean",
            "correct": "True: widen the normal so that the realised standard deviation is std",
        },
        "As normal, where a rare large value would hurt; vision transformers and BERT",
        "torch.nn.init.trunc_normal_, whose bounds are absolute",
        "Robert, Simulation of truncated normal variables, 1995; Devlin et al., BERT, 2018",
    ),
    "trunc_normal_absolute": SchemeText(
        "one spread",
        "normal without its tails, cut at values",
        "w ~ N(mean, std^2) given a <= w <= b",
        {
            "mean": "of the normal before it is cut",
            "std": "of the normal before it is cut",
            "a": "lower bound, a value",
            "b": "upper bound, a value",
        },
        "Reproducing torch and timm; with std=0.02 the default bounds are at 100 std and cut nothing",
        "torch.nn.init.trunc_normal_",
        "Robert, Simulation of truncated normal variables, 1995",
    ),
    "xavier_uniform": SchemeText(
        "by fans",
        "uniform, balancing the scale of signals and of gradients",
        "w ~ U(-b, b), b = gain * sqrt(6 / (fan_in + fan_out))",
        {"gain": GAIN},
        f"{SATURATING}. Attention projections: gain = 1/sqrt(dim) starts attention nearly even",
        "torch.nn.init.xavier_uniform_",
        GLOROT,
    ),
    "xavier_normal": SchemeText(
        "by fans",
        "normal, balancing the scale of signals and of gradients",
        "w ~ N(0, s^2), s = gain * sqrt(2 / (fan_in + fan_out))",
        {"gain": GAIN},
        SATURATING,
        "torch.nn.init.xavier_normal_",
        GLOROT,
    ),
    "small_xavier": SchemeText(
        "by fans",
        "xavier_uniform with a gain of 1 / sqrt(fan_in)",
        "w ~ U(-b, b), b = sqrt(6 / ((fan_in + fan_out) fan_in))",
        {},
        "Query, key and value projections, separate or fused, of a new attention: scores start almost 0, so attention "
        "starts almost even",
        "torch.nn.init.xavier_uniform_, with gain=1/sqrt(dim)",
        GLOROT,
    ),
    "kaiming_uniform": SchemeText(
        "by fans",
        "uniform, making up for what a rectifier cuts off",
        "w ~ U(-b, b), b = gain * sqrt(3 / fan), gain = sqrt(2 / (1 + a^2)) for leaky_relu",
        {
            "a": "slope of leaky_relu below 0; 0 is relu",
            "mode": "fan_in keeps the signals' scale, fan_out the gradients'",
            "nonlinearity": "the activation that follows; its gain replaces leaky_relu's",
        },
        f"{RECTIFYING}. torch's own Linear and convolution weights have a = sqrt(5), that is U(+-1/sqrt(fan_in))",
        "torch.nn.init.kaiming_uniform_",
        HE,
    ),
    "kaiming_normal": SchemeText(
        "by fans",
        "normal, making up for what a rectifier cuts off",
        "w ~ N(0, s^2), s = gain / sqrt(fan), gain = sqrt(2 / (1 + a^2)) for leaky_relu",
        {
            "a": "slope of leaky_relu below 0; 0 is relu",
            "mode": "fan_in keeps the signals' scale, fan_out the gradients'",
            "nonlinearity": "the activation that follows; its gain replaces leaky_relu's",
        },
        f"{RECTIFYING}. Residual convolutions with batch norm take mode=fan_out",
        "torch.nn.init.kaiming_normal_",
        HE,
    ),
    "lecun_uniform": SchemeText(
        "by fans",
        "uniform, keeping the scale of signals",
        "w ~ U(-b, b), b = sqrt(3 / fan_in)",
        {},
        "Linear layers, and layers before selu",
        "",
        LECUN,
    ),
    "lecun_normal": SchemeText(
        "by fans",
        "truncated normal, keeping the scale of signals",
        "w = s * z / 0.8796..., z ~ N(0, 1) given |z| <= 2, s = 1 / sqrt(fan_in)",
        {},
        "Linear layers, and layers before selu; what Flax gives a Dense layer",
        "",
        f"{LECUN}; Klambauer et al., Self-Normalizing Neural Networks, 2017",
    ),
    "variance_scaling": SchemeText(
        "by fans",
        "any variance that is a number over a fan",
        "Var w = scale / fan; truncated_normal: w = s * z / 0.8796..., |z| <= 2; uniform: b = sqrt(3 scale / fan)",
        {
            "scale": "the numerator: 1 LeCun and Xavier, 2 Kaiming",
            "mode": "the denominator: fan_in, fan_out, or their mean fan_avg",
            "distribution": "truncated_normal, normal or uniform",
        },
        "Reproducing TensorFlow, Keras and JAX, whose initializers are all cases of it",
        "",
        "TensorFlow, Keras and JAX (jax.nn.initializers.variance_scaling); He et al., 2015",
    ),
    "orthogonal": SchemeText(
        "structured",
        "each matrix keeps lengths and angles",
        "W W^T = gain^2 I (W^T W if rows outnumber columns), uniform among such matrices",
        {"gain": GAIN},
        "A recurrent layer's hidden-to-hidden weight, each gate on its own; deep linear stacks; policy heads "
        "with gain 0.01",
        "torch.nn.init.orthogonal_",
        "Saxe, McClelland and Ganguli, Exact solutions to the nonlinear dynamics of learning in deep linear neural "
        "networks, 2013; Mezzadri, How to generate random matrices from the classical compact groups, 2007",
    ),
    "delta_orthogonal": SchemeText(
        "structured",
        "a convolution, orthogonal at its centre and 0 around it",
        "w[:, :, centre] = gain * Q, Q^T Q = I; 0 elsewhere; needs channels out >= channels in",
        {"gain": GAIN},
        "Very deep convolutional stacks without normalization",
        "",
        "Xiao et al., Dynamical Isometry and a Mean Field Theory of CNNs, 2018",
    ),
    "sparse": SchemeText(
        "structured",
        "normal, with a fixed share of each column 0",
        "ceil(sparsity * rows) zeros in each column, at random places; the rest ~ N(0, std^2)",
        {"sparsity": "share of each column (input) that is 0, from 0 to 1", "std": "of the rest"},
        "Reproducing older recurrent networks",
        "torch.nn.init.sparse_",
        "Martens, Deep learning via Hessian-free optimization, 2010",
    ),
    "eye": SchemeText(
        "structured",
        "a matrix that passes its input on",
        "w[i, i] = 1; 0 elsewhere",
        {},
        "A new square linear layer that should change nothing at first; hidden-to-hidden weights of relu "
        "recurrent nets",
        "torch.nn.init.eye_",
        "Le, Jaitly and Hinton, A Simple Way to Initialize Recurrent Networks of Rectified Linear Units, 2015",
    ),
    "dirac": SchemeText(
        "structured",
        "a convolution that passes its input on",
        "w[g * n + i, i, centre] = 1 for each of the groups g of n output channels; 0 elsewhere",
        {"groups": "groups of output channels, each with the identity; None: those of the convolution"},
        "A new convolution that should change nothing at first",
        "torch.nn.init.dirac_",
        "Zagoruyko and Komodakis, DiracNets: Training Very Deep Neural Networks Without Skip-Connections, 2017",
    ),
    "scaled_residual": SchemeText(
        "by place",
        "normal, smaller the deeper the network",
        "w ~ N(0, s^2), s = std / sqrt(2 * layers)",
        {"layers": "blocks of the whole extended model, of two residual branches each", "std": "before scaling"},
        "The projection that ends a residual branch (attention's and the MLP's output), where it should not be zeros",
        "",
        "Radford et al., Language Models are Unsupervised Multitask Learners (GPT-2), 2019",
    ),
    "embedding": SchemeText(
        "by place",
        "normal rows, but for a padding row of zeros",
        "w[i] ~ N(0, std^2) for i != padding; w[padding] = 0",
        {"padding": "the row that stands for padding", "std": "of the other rows"},
        "A new embedding table with a padding row, with the std of the model's other embeddings",
        "",
        "torch.nn.Embedding, whose padding row is 0",
    ),
    "lstm_bias": SchemeText(
        "by place",
        "zeros, but the forget gate open",
        "gates input, forget, cell, output: bias_ih = (0, forget, 0, 0), bias_hh = 0 (the two are added)",
        {"forget": "the forget gate's bias"},
        "The biases of torch's LSTM",
        "",
        "Gers, Schmidhuber and Cummins, Learning to Forget, 2000; Jozefowicz, Zaremba and Sutskever, An Empirical "
        "Exploration of Recurrent Network Architectures, 2015",
    ),
    "gru_bias": SchemeText(
        "by place",
        "zeros, but the update gate towards remembering",
        "gates reset, update, new: bias_ih = (0, update, 0), bias_hh = 0 (the two are added)",
        {"update": "the update gate's bias; positive remembers"},
        "The biases of torch's GRU",
        "",
        "Cho et al., Learning Phrase Representations using RNN Encoder-Decoder, 2014, for the gates",
    ),
    "matched_normal": SchemeText(
        "by place",
        "normal, like the tensor's pretrained elements",
        "w ~ N(m, (scale s)^2), m and s of the pretrained elements of the same tensor",
        {"scale": "factor on the standard deviation"},
        "New rows of a trained embedding, or of any tensor that grew: they start with the spread of their neighbours",
    ),
    "model": SchemeText(
        "by place",
        "what the architecture itself would give the tensor",
        "the values of its own _init_weights",
        {},
        "The default: new tensors are as the model's authors would have started them",
    ),
    "declared": SchemeText(
        "by place",
        "what the class's constructor gives the tensor",
        "the values that __init__ sets",
        {},
        "Classes of your own that set their parameters themselves: a layer zeroed in __init__ stays zero",
    ),
    "auto": SchemeText(
        "by place",
        "chosen for each tensor, with the reason in the plan",
        "the scheme that fits the role, the activation, the fans and the surroundings",
        {},
        "When you want advice: `default: auto`, then read the plan's column of reasons",
    ),
    "skip": SchemeText(
        "by place",
        "leave the tensor out",
        "no values",
        {},
        "Tensors that something else fills: an adapter library, your own code",
    ),
}
