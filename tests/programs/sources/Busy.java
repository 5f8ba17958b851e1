import java.io.File;
import java.io.FileOutputStream;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.file.Files;
import java.nio.file.StandardOpenOption;
import java.security.MessageDigest;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.Executors;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.locks.LockSupport;

/** The JVM at work: three hundred threads, timers, garbage for G1. */
public final class Busy {
    static final int THREADS = 300;
    static final long LIMIT = TimeUnit.SECONDS.toNanos(60);

    /** Hashes a hash, over and over, and makes garbage. */
    static final class Chain extends Thread {
        final byte[] first;
        byte[] digest;
        long links;

        Chain(int seed) throws Exception {
            setDaemon(true);
            first = MessageDigest.getInstance("SHA-256").digest(new byte[] {(byte) seed});
            digest = first;
        }

        @Override
        public void run() {
            try {
                for (;;) {
                    advance();
                    LockSupport.parkNanos(TimeUnit.MILLISECONDS.toNanos(20));
                }
            } catch (Exception e) {
                e.printStackTrace();
                Runtime.getRuntime().halt(1);
            }
        }

        synchronized void advance() throws Exception {
            digest = MessageDigest.getInstance("SHA-256").digest(digest);
            links++;
        }

        synchronized long links() {
            return links;
        }

        synchronized void check() throws Exception {
            byte[] again = first;
            for (long i = 0; i < links; i++) {
                again = MessageDigest.getInstance("SHA-256").digest(again);
            }
            if (!MessageDigest.isEqual(again, digest)) {
                throw new IllegalStateException("a chain is broken");
            }
        }
    }

    interface Condition {
        boolean holds() throws Exception;
    }

    static void waitFor(String what, Condition condition) throws Exception {
        long start = System.nanoTime();
        while (!condition.holds()) {
            if (System.nanoTime() - start > LIMIT) {
                throw new IllegalStateException("waited in vain for " + what);
            }
            Thread.sleep(2);
        }
    }

    /** NIO: its first use opens a socket whose other end is closed at once. */
    static final class Channel {
        final FileChannel channel;
        long written;

        Channel(File dir) throws Exception {
            channel = FileChannel.open(dir.toPath().resolve("channel"), StandardOpenOption.CREATE_NEW,
                    StandardOpenOption.READ, StandardOpenOption.WRITE);
            channel.write(ByteBuffer.wrap(new byte[] {1, 2, 3}));
            written = 3;
            if (Files.size(dir.toPath().resolve("channel")) != written) {
                throw new IllegalStateException("the file has another size");
            }
        }

        void check() throws Exception {
            ByteBuffer first = ByteBuffer.allocate(3);
            channel.read(first, 0);
            if (first.get(2) != 3 || channel.position() != written || channel.size() != written) {
                throw new IllegalStateException("the channel is not where it was");
            }
            written += channel.write(ByteBuffer.wrap(new byte[1000]));
        }
    }

    /** The stage protocol: see tests/victims/harness/stage.rs. */
    static final class Stage {
        final File dir = new File(System.getenv("ICECORE_STAGE"));
        final long deadline = System.currentTimeMillis() + 300_000;
        int round;

        boolean next() throws Exception {
            File draft = new File(dir, ".draft");
            new FileOutputStream(draft).close();
            if (!draft.renameTo(new File(dir, "ready-" + round))) {
                throw new IllegalStateException("cannot say that it is ready");
            }
            File go = new File(dir, "go-" + round);
            File end = new File(dir, "end");
            round++;
            for (;;) {
                if (go.exists()) {
                    return true;
                }
                if (end.exists()) {
                    return false;
                }
                if (System.currentTimeMillis() > deadline) {
                    throw new IllegalStateException("abandoned by the harness");
                }
                Thread.sleep(2);
            }
        }
    }

    public static void main(String[] arguments) throws Exception {
        List<Chain> chains = new ArrayList<>();
        for (int i = 0; i < THREADS; i++) {
            Chain chain = new Chain(i);
            chain.start();
            chains.add(chain);
        }
        AtomicLong ticks = new AtomicLong();
        ScheduledExecutorService timer = Executors.newSingleThreadScheduledExecutor();
        timer.scheduleAtFixedRate(ticks::incrementAndGet, 10, 10, TimeUnit.MILLISECONDS);
        List<byte[]> kept = new ArrayList<>();
        Stage stage = new Stage();
        Channel channel = new Channel(stage.dir);
        try {
            while (stage.next()) {
                channel.check();
                long before = ticks.get();
                waitFor("ticks", () -> ticks.get() > before + 3);
                long[] links = chains.stream().mapToLong(Chain::links).toArray();
                for (int i = 0; i < THREADS; i++) {
                    int at = i;
                    waitFor("a chain", () -> chains.get(at).links() > links[at]);
                    chains.get(i).check();
                }
                for (int i = 0; i < 64; i++) {
                    kept.add(new byte[1 << 18]);
                }
                if (kept.size() > 200) {
                    kept.clear();
                }
                System.gc();
                long start = System.nanoTime();
                Thread.sleep(50);
                long slept = System.nanoTime() - start;
                if (slept < 49_000_000L || slept > LIMIT) {
                    throw new IllegalStateException("50 ms took " + slept + " ns");
                }
            }
        } catch (Exception e) {
            e.printStackTrace();
            Runtime.getRuntime().halt(1);
        }
        Runtime.getRuntime().halt(0);
    }
}
