/* Cleat: the baseline, MPI_Bcast. SPDX-License-Identifier: Apache-2.0
 *
 *     mpirun -n RANKS mpi_bcast BYTES BUCKET_BYTES PASSES
 *
 * Rank 0 broadcasts BYTES bytes in messages of BUCKET_BYTES to all others, into
 * memory that was touched before; one pass to warm up, then PASSES measured
 * ones. Prints the seconds of the best. No digests. */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static double pass(unsigned char *data, size_t bytes, size_t bucket)
{
    double start;

    MPI_Barrier(MPI_COMM_WORLD);
    start = MPI_Wtime();
    for (size_t at = 0; at < bytes; at += bucket) {
        size_t some = bytes - at < bucket ? bytes - at : bucket;

        MPI_Bcast(data + at, (int)some, MPI_BYTE, 0, MPI_COMM_WORLD);
    }
    MPI_Barrier(MPI_COMM_WORLD);
    return MPI_Wtime() - start;
}

int main(int argc, char **argv)
{
    size_t bytes = argc == 4 ? strtoull(argv[1], NULL, 10) : 0;
    size_t bucket = argc == 4 ? strtoull(argv[2], NULL, 10) : 0;
    long passes = argc == 4 ? strtol(argv[3], NULL, 10) : 0;
    double best = 1e9;
    unsigned char *data;
    int rank;

    if (bytes == 0 || bucket == 0 || passes <= 0) {
        fprintf(stderr, "mpi_bcast: BYTES BUCKET_BYTES PASSES are needed\n");
        return 2;
    }
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    if (posix_memalign((void **)&data, 4096, bytes) != 0) { return 1; }
    memset(data, rank == 0 ? 0x5A : 0, bytes);
    (void)pass(data, bytes, bucket);
    for (long i = 0; i < passes; i++) {
        double seconds = pass(data, bytes, bucket);

        if (seconds < best) { best = seconds; }
    }
    if (data[bytes - 1] != 0x5A) { return 1; }
    if (rank == 0) { printf("%.9f\n", best); }
    free(data);
    MPI_Finalize();
    return 0;
}
