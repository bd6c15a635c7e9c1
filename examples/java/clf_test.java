// SPDX-License-Identifier: Apache-2.0

import GramineJni.gramine_jni;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;

/**
 * The sample that users of CLF know: it gets the owner's key, a file's size, the file in ranges, and puts back a result.
 *
 * <p>Run as ever: {@code java -Xmx4G clf_test HOST}. Port 4433, CA from certs/ca_cert.crt, file README.md, result
 * result.out, unless told otherwise: {@code clf_test HOST FILE RESULT}.
 */
public class clf_test {
    private static final int PORT = 4433;
    private static final int READS = 2000;
    private static final int READ_BYTES = 32;

    public static void main(String[] args) {
        if (args.length < 1 || args.length > 3) {
            System.err.println("usage: java clf_test HOST[:PORT] [FILE] [RESULT]");
            System.exit(2);
        }
        String place = args[0].contains(":") ? args[0] : args[0] + ":" + PORT;
        String file = args.length > 1 ? args[1] : "README.md";
        String result = args.length > 2 ? args[2] : "result.out";
        try {
            run(new gramine_jni(place, "certs/ca_cert.crt"), file, result);
        } catch (Exception error) {
            System.err.println("failed: " + error.getMessage());
            System.exit(1);
        }
    }

    private static void run(gramine_jni clf, String file, String result) throws Exception {
        System.out.println("[test] get the key");
        byte[] key = new byte[64];
        clf.GetKey(key, key.length);
        // A key is for use, not for a screen that the host sees.
        System.out.println("got a key; it is not printed");
        Arrays.fill(key, (byte) 0);

        System.out.println("[test] get the size of " + file);
        long[] size = new long[1];
        clf.GetFileSize(file, size);
        System.out.println(file + " has " + size[0] + " bytes");

        System.out.println("[test] get " + file + " in " + READS + " reads of " + READ_BYTES + " bytes");
        byte[] piece = new byte[READ_BYTES];
        int[] got = new int[1];
        long offset = 0;
        long total = 0;
        long sum = 0;
        for (int i = 0; i < READS; i++) {
            clf.GetFile2Buff(file, offset, piece, piece.length, got);
            total += got[0];

            // ---- your computation begins here -------------------------------------------------------------
            // piece[0 .. got[0]) are verified bytes of the file, from `offset` on.
            for (int j = 0; j < got[0]; j++) {
                sum += piece[j] & 0xff;
            }
            // ---- and ends here -----------------------------------------------------------------------------

            offset += got[0];
            if (got[0] < piece.length) {
                offset = 0; // the file's end: from its start again
            }
        }
        System.out.println("read " + total + " bytes, whose sum is " + sum);

        System.out.println("[test] put the result " + result);
        byte[] answer = ("bytes=" + total + " sum=" + sum + "\n").getBytes(StandardCharsets.UTF_8);
        clf.PutResult(result, 0, answer, answer.length, got);
        System.out.println("the owner has published " + got[0] + " bytes and signed for them");
    }
}
