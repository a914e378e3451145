// The inner loops of the k-means: see kmeans_kernels.py for the arguments. Every subvector's result is computed by the
// same operations in the same order wherever it lies in a call, so results do not depend on how a caller cuts its work.

#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

// Registers: CODEWORDS x VECTORS sums, VECTORS elements of subvectors and a codeword's element.
#if defined(__AVX512F__)
constexpr int LANES = 16, VECTORS = 4, CODEWORDS = 4;
#elif defined(__AVX__)
constexpr int LANES = 8, VECTORS = 2, CODEWORDS = 4;
#else
constexpr int LANES = 4, VECTORS = 2, CODEWORDS = 4;
#endif
constexpr int BLOCK = LANES * VECTORS;
constexpr int MOST_ELEMENTS = 256;

typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef float Four __attribute__((vector_size(16)));
typedef uint8_t FourBytes __attribute__((vector_size(4)));
typedef int32_t Integers __attribute__((vector_size(4 * LANES)));

double squared_error(const float *w, const uint8_t *mask, const float *c, int64_t d) {
    double sum = 0;
    for (int64_t e = 0; e < d; e++) {
        double difference = mask && !mask[e] ? w[e] : static_cast<double>(w[e]) - c[e];
        sum += difference * difference;
    }
    return sum;
}

template <bool MASKED>
double lower(const float *w, const uint8_t *masks, int64_t rows, int64_t d, const float *codeword, float *closest) {
    double total = 0;
    for (int64_t j = 0; j < rows; j++, w += d, masks += MASKED ? d : 0) {
        Four sums{};
        int64_t e = 0;
        for (; e + 4 <= d; e += 4) {
            Four difference, c;
            std::memcpy(&difference, w + e, sizeof difference);
            std::memcpy(&c, codeword + e, sizeof c);
            if (MASKED) {
                FourBytes mask;
                std::memcpy(&mask, masks + e, sizeof mask);
                c *= __builtin_convertvector(mask, Four);
            }
            difference -= c;
            sums += difference * difference;
        }
        float sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
        for (; e < d; e++) {
            const float difference = w[e] - (MASKED ? masks[e] * codeword[e] : codeword[e]);
            sum += difference * difference;
        }
        if (sum < closest[j]) closest[j] = sum;
        total += closest[j];
    }
    return total;
}

}  // namespace

extern "C" {

// Rows of a factor come in groups of this many.
int64_t group_size() { return CODEWORDS; }

int64_t most_elements() { return MOST_ELEMENTS; }

int64_t nearest(const float *w, const uint8_t *masks, int64_t rows, int64_t d, const float *factor,
                const float *codebook, int64_t k, int32_t *assignments, int32_t refine) {
    const int64_t K = masks ? 2 * d : d, groups = (k + CODEWORDS - 1) / CODEWORDS;
    alignas(64) float x[2 * MOST_ELEMENTS * BLOCK];
    int64_t changes = 0;
    for (int64_t first = 0; first < rows; first += BLOCK) {
        const int64_t here = rows - first < BLOCK ? rows - first : BLOCK;
        if (here < BLOCK) std::memset(x, 0, sizeof(float) * K * BLOCK);
        for (int64_t j = 0; j < here; j++) {
            const float *row = w + (first + j) * d;
            for (int64_t e = 0; e < d; e++) x[e * BLOCK + j] = row[e];
            if (masks) {
                const uint8_t *mask = masks + (first + j) * d;
                for (int64_t e = 0; e < d; e++) x[(d + e) * BLOCK + j] = mask[e];
            }
        }
        Floats best[VECTORS];
        Integers found[VECTORS];
        for (int v = 0; v < VECTORS; v++) best[v] = Floats{} + INFINITY, found[v] = Integers{};
        const float *factors = factor;
        for (int64_t group = 0; group < groups; group++) {
            Floats score[CODEWORDS][VECTORS];
            for (int i = 0; i < CODEWORDS; i++)
                for (int v = 0; v < VECTORS; v++) score[i][v] = Floats{} + factors[i];
            factors += CODEWORDS;
            for (int64_t e = 0; e < K; e++, factors += CODEWORDS) {
                const Floats *elements = reinterpret_cast<const Floats *>(x + e * BLOCK);
                for (int i = 0; i < CODEWORDS; i++)
                    for (int v = 0; v < VECTORS; v++) score[i][v] += elements[v] * factors[i];
            }
            for (int i = 0; i < CODEWORDS; i++)
                for (int v = 0; v < VECTORS; v++) {
                    const Integers less = score[i][v] < best[v];
                    best[v] = less ? score[i][v] : best[v];
                    found[v] = less ? Integers{} + static_cast<int32_t>(group * CODEWORDS + i) : found[v];
                }
        }
        alignas(64) int32_t numbers[BLOCK];
        std::memcpy(numbers, found, sizeof numbers);
        for (int64_t j = 0; j < here; j++) {
            const int64_t row = first + j;
            const int32_t old = assignments[row];
            if (refine) {
                if (numbers[j] == old) continue;
                const float *subvector = w + row * d;
                const uint8_t *mask = masks ? masks + row * d : nullptr;
                if (!(squared_error(subvector, mask, codebook + numbers[j] * d, d) <
                      squared_error(subvector, mask, codebook + old * d, d)))
                    continue;
            }
            assignments[row] = numbers[j];
            changes++;
        }
    }
    return changes;
}

void sums(const float *w, const uint8_t *masks, int64_t rows, int64_t d, const int32_t *assignments, double *totals,
          int64_t *counts, int64_t *sizes) {
    for (int64_t j = 0; j < rows; j++) {
        const int64_t cluster = assignments[j];
        sizes[cluster]++;
        double *total = totals + cluster * d;
        const float *row = w + j * d;
        for (int64_t e = 0; e < d; e++) total[e] += row[e];
        if (!masks) continue;
        int64_t *count = counts + cluster * d;
        const uint8_t *mask = masks + j * d;
        for (int64_t e = 0; e < d; e++) count[e] += mask[e];
    }
}

void errors(const float *w, const uint8_t *masks, int64_t rows, int64_t d, const float *codebook,
            const int32_t *assignments, double *found) {
    for (int64_t j = 0; j < rows; j++)
        found[j] = squared_error(w + j * d, masks ? masks + j * d : nullptr, codebook + assignments[j] * d, d);
}

// k-means++: closest[j] = min(closest[j], error with this codeword); returns their sum.
double closer(const float *w, const uint8_t *masks, int64_t rows, int64_t d, const float *codeword, float *closest) {
    return (masks ? lower<true> : lower<false>)(w, masks, rows, d, codeword, closest);
}

// k-means++ on one thread. closest starts at infinity; draws are in 0..1, one a codeword.
void plus_plus(const float *w, const uint8_t *masks, int64_t rows, int64_t d, int64_t k, int64_t chosen,
               const float *fills, const double *draws, float *closest, float *codebook) {
    for (int64_t i = 0; i < k; i++, codebook += d) {
        for (int64_t e = 0; e < d; e++)
            codebook[e] = masks && !masks[chosen * d + e] ? fills[i * d + e] : w[chosen * d + e];
        const double point = draws[i] * closer(w, masks, rows, d, codebook, closest);
        double sum = 0;
        // The last one is left out of the search: rounding cannot lead past it.
        for (chosen = 0; chosen < rows - 1; chosen++)
            if ((sum += closest[chosen]) > point) break;
    }
}

}  // extern "C"
