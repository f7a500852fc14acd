"""The C functions of `kind="c"`; those with braces doubled are parts of others, to be formatted."""

NAME = """\
/* The name of a row, in UTF-8. */
static inline const char *edge_head_name(int row)
{
    return edge_head_names[row];
}"""

DOT = """\
/* Four sums side by side: faster, and nearer to the true sum than one. */
static inline float edge_head_dot(const float *a, const float *b, int n)
{
    float s0 = 0, s1 = 0, s2 = 0, s3 = 0;
    int d = 0;
    for (; d + 3 < n; d += 4) {
        s0 += a[d] * b[d];
        s1 += a[d + 1] * b[d + 1];
        s2 += a[d + 2] * b[d + 2];
        s3 += a[d + 3] * b[d + 3];
    }
    for (; d < n; d++)
        s0 += a[d] * b[d];
    return (s0 + s1) + (s2 + s3);
}"""

RAISE = """\
/* The feature to the power 3/4, with its sign. */
static inline float edge_head_raise(float feature)
{
    float root = sqrtf(feature < 0 ? -feature : feature);
    float raised = root * sqrtf(root);
    return feature < 0 ? -raised : raised;
}"""

RANDOM = """\
    for (d = 0; d < EDGE_HEAD_M; d++) {{
        float sum = edge_head_dot(edge_head_projection[d], {source}, EDGE_HEAD_D) + edge_head_offsets[d];
        mapped[d] = sum > 0 ? sum : 0;
    }}"""

UNIT = """\
    length = sqrtf(edge_head_dot({source}, {source}, EDGE_HEAD_M));
    if (length < {shortest})
        length = {shortest};
    for (d = 0; d < EDGE_HEAD_M; d++)
        mapped[d] = {source}[d] / length;"""

ROWS = """\
    for (k = 0; k < EDGE_HEAD_K; k++)
        {answers}[k] = edge_head_dot(edge_head_weights[k], {source}, EDGE_HEAD_M) + edge_head_bias[k];"""

HIDDEN = """\
    for (h = 0; h < n_units; h++) {{
        float active = edge_head_dot(edge_head_units[h], {source}, EDGE_HEAD_M) + edge_head_units_bias[h];
        for (k = 0; active > 0 && k < EDGE_HEAD_K; k++)
            {answers}[k] += active * edge_head_units_rows[h][k];
    }}"""

LOOKS = """\
    for (e = 0; e < n_looks; e++) {{ /* a class answers by the highest of its rows */
        float look = edge_head_dot(edge_head_look_weights[e], {source}, EDGE_HEAD_M) + edge_head_look_bias[e];
        if (look > {answers}[edge_head_owners[e]])
            {answers}[edge_head_owners[e]] = look;
    }}"""

PROBABILITIES = """\
/* The probabilities (K,) of features (D,); their sum is 1. */
static inline void edge_head_probabilities(const float *features, float *probabilities)
{
    float highest, sum = 0;
    int k;
    edge_head_logits(features, probabilities);
    highest = probabilities[0];
    for (k = 1; k < EDGE_HEAD_K; k++)
        highest = probabilities[k] > highest ? probabilities[k] : highest;
    for (k = 0; k < EDGE_HEAD_K; k++) {
        probabilities[k] = expf(probabilities[k] - highest);
        sum += probabilities[k];
    }
    for (k = 0; k < EDGE_HEAD_K; k++)
        probabilities[k] /= sum;
}"""

TOP = """\
/* Puts the rows of the n highest scores (K,) into rows, of equal ones the lower row first; returns how many. */
static inline int edge_head_top(const float *scores, int *rows, int n)
{
    int found = 0;
    while (found < n && found < EDGE_HEAD_K) {
        int best = -1, last = found ? rows[found - 1] : -1, k;
        for (k = 0; k < EDGE_HEAD_K; k++) {
            int is_left = last < 0 || scores[k] < scores[last] || (k > last && scores[k] <= scores[last]);
            if (is_left && (best < 0 || scores[k] > scores[best]))
                best = k;
        }
        if (best < 0)
            break; /* scores that are no numbers */
        rows[found++] = best;
    }
    return found;
}"""
