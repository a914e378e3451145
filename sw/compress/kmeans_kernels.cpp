// The inner loops of the k-means: see kmeans_kernels.py for the arguments. Every subvector's result is computed by the
// same operations in the same order wherever it lies in a call, so results do not depend on how a caller cuts its work.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

namespace {

// Registers: CODEWORDS x VECTORS sums, VECTORS elements of subvectors and a codeword's element. With masks: ACROSS sums,
// of LANES codewords each.
#if defined(__AVX512F__)
constexpr int LANES = 16, VECTORS = 4, CODEWORDS = 4, ACROSS = 8;
#elif defined(__AVX__)
constexpr int LANES = 8, VECTORS = 2, CODEWORDS = 4, ACROSS = 4;
#else
constexpr int LANES = 4, VECTORS = 2, CODEWORDS = 4, ACROSS = 4;
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

// Compilers load a vector anew for each of its uses; processors that load no more than 64 bytes a cycle lose a fifth.
inline void keep_in_register(Floats &vector) {
#if defined(__AVX512F__)
    asm("" : "+v"(vector));
#else
    (void)vector;
#endif
}

// The nearest codewords of up to BLOCK subvectors. factor: groups of CODEWORDS codewords, each |c|^2 and then -2 c,
// element by element.
void nearest_block(const float *w, int64_t rows, int64_t d, const float *factor, int64_t groups, int32_t *numbers) {
    alignas(64) float x[MOST_ELEMENTS * BLOCK];
    if (rows < BLOCK) std::memset(x, 0, sizeof(float) * d * BLOCK);
    for (int64_t j = 0; j < rows; j++)
        for (int64_t e = 0; e < d; e++) x[e * BLOCK + j] = w[j * d + e];
    Floats best[VECTORS];
    Integers found[VECTORS], number{};
    for (int v = 0; v < VECTORS; v++) best[v] = Floats{} + INFINITY, found[v] = Integers{};
    const float *factors = factor;
    for (int64_t group = 0; group < groups; group++) {
        Floats score[CODEWORDS][VECTORS];
        for (int i = 0; i < CODEWORDS; i++)
            for (int v = 0; v < VECTORS; v++) score[i][v] = Floats{} + factors[i];
        factors += CODEWORDS;
        for (int64_t e = 0; e < d; e++, factors += CODEWORDS) {
            Floats elements[VECTORS];
            std::memcpy(elements, x + e * BLOCK, sizeof elements);
            for (Floats &vector : elements) keep_in_register(vector);
            for (int i = 0; i < CODEWORDS; i++)
                for (int v = 0; v < VECTORS; v++) score[i][v] += elements[v] * factors[i];
        }
        for (int i = 0; i < CODEWORDS; i++, number += 1)
            for (int v = 0; v < VECTORS; v++) {
                const Integers less = score[i][v] < best[v];
                best[v] = less ? score[i][v] : best[v];
                found[v] = less ? number : found[v];
            }
    }
    std::memcpy(numbers, found, sizeof found);
}

// Element i of the result is element i ^ H.
template <int H, typename Vector, int... I>
Vector swapped(Vector values, std::integer_sequence<int, I...>) {
#if defined(__clang__)
    return __builtin_shufflevector(values, values, (I ^ H)...);
#else
    return __builtin_shuffle(values, Integers{(I ^ H)...});
#endif
}

// The number that belongs to the least of all lanes; of equals, the least number.
template <int H = LANES / 2>
int32_t least(Floats best, Integers found) {
    constexpr auto lanes = std::make_integer_sequence<int, LANES>{};
    const Floats other = swapped<H>(best, lanes);
    const Integers number = swapped<H>(found, lanes);
    const Integers better = (other < best) | ((other == best) & (number < found));
    best = better ? other : best;
    found = better ? number : found;
    if constexpr (H > 1)
        return least<H / 2>(best, found);
    else
        return found[0];
}

// The nearest codeword by the kept elements alone. factor: [d, wide], elements by codewords.
int32_t nearest_masked(const float *w, const uint8_t *mask, int64_t d, const float *factor, int64_t wide) {
    int32_t kept[MOST_ELEMENTS + 1];
    int count = 0;
    for (int64_t e = 0; e < d; e++) {
        kept[count] = static_cast<int32_t>(e);
        count += mask[e];
    }
    Floats best = Floats{} + INFINITY;
    Integers found{}, number;
    for (int i = 0; i < LANES; i++) number[i] = i;
    const auto compare = [&](int64_t first, auto vectors) {
        Floats score[vectors.value]{};
        for (int n = 0; n < count; n++) {
            const Floats *elements = reinterpret_cast<const Floats *>(factor + kept[n] * wide + first);
            for (int v = 0; v < vectors.value; v++) {
                const Floats difference = elements[v] - w[kept[n]];
                score[v] += difference * difference;
            }
        }
        for (int v = 0; v < vectors.value; v++, number += LANES) {
            const Integers less = score[v] < best;
            best = less ? score[v] : best;
            found = less ? number : found;
        }
    };
    int64_t first = 0;
    for (; first + ACROSS * LANES <= wide; first += ACROSS * LANES) compare(first, std::integral_constant<int, ACROSS>{});
    for (; first < wide; first += LANES) compare(first, std::integral_constant<int, 1>{});
    return least(best, found);
}

}  // namespace

extern "C" {

// Codewords of a factor come in groups of this many.
int64_t group_size(int32_t masked) { return masked ? LANES : CODEWORDS; }

int64_t most_elements() { return MOST_ELEMENTS; }

// With masks, factor is aligned to 64 bytes.
int64_t nearest(const float *w, const uint8_t *masks, int64_t rows, int64_t d, const float *factor,
                const float *codebook, int64_t k, int32_t *assignments, int32_t refine) {
    const int64_t size = group_size(masks != nullptr), groups = (k + size - 1) / size;
    alignas(64) int32_t numbers[BLOCK];
    int64_t changes = 0;
    for (int64_t first = 0; first < rows; first += BLOCK) {
        const int64_t here = rows - first < BLOCK ? rows - first : BLOCK;
        const float *part = w + first * d;
        const uint8_t *kept = masks ? masks + first * d : nullptr;
        if (masks)
            for (int64_t j = 0; j < here; j++)
                numbers[j] = nearest_masked(part + j * d, kept + j * d, d, factor, groups * size);
        else
            nearest_block(part, here, d, factor, groups, numbers);
        for (int64_t j = 0; j < here; j++) {
            int32_t &old = assignments[first + j];
            if (refine) {
                if (numbers[j] == old) continue;
                const float *subvector = part + j * d;
                const uint8_t *mask = masks ? kept + j * d : nullptr;
                if (!(squared_error(subvector, mask, codebook + numbers[j] * d, d) <
                      squared_error(subvector, mask, codebook + old * d, d)))
                    continue;
            }
            old = numbers[j];
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
