import java.io.InputStream;
import java.io.OutputStream;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.net.SocketTimeoutException;
import java.nio.ByteBuffer;
import java.nio.channels.SelectionKey;
import java.nio.channels.Selector;
import java.nio.channels.SocketChannel;
import java.nio.channels.ServerSocketChannel;
import java.util.concurrent.ConcurrentLinkedQueue;

/** Answers lines with "pong": every second connection by a thread that sleeps in poll, the others by one in epoll_wait. */
public class Server {
    static final byte[] PONG = "pong\n".getBytes();

    public static void main(String[] arguments) throws Exception {
        ServerSocketChannel listener = ServerSocketChannel.open();
        listener.bind(new InetSocketAddress(InetAddress.getLoopbackAddress(), 0), 100);
        Selector selector = Selector.open();
        ConcurrentLinkedQueue<SocketChannel> fresh = new ConcurrentLinkedQueue<>();
        start(() -> select(selector, fresh));
        System.out.println("ready " + ((InetSocketAddress) listener.getLocalAddress()).getPort());
        ServerSocket socket = listener.socket();
        // It sleeps in poll, which is patched, too.
        socket.setSoTimeout(300);
        for (boolean blocking = true; ; ) {
            SocketChannel connection;
            try {
                connection = socket.accept().getChannel();
            } catch (SocketTimeoutException timeout) {
                continue;
            }
            blocking = !blocking;
            if (blocking) {
                start(() -> serve(connection.socket()));
            } else {
                fresh.add(connection);
                selector.wakeup();
            }
        }
    }

    interface Task {
        void run() throws Exception;
    }

    static void start(Task task) {
        Thread thread = new Thread(() -> {
            try {
                task.run();
            } catch (Exception error) {
                error.printStackTrace();
            }
        });
        thread.setDaemon(true);
        thread.start();
    }

    static void serve(Socket socket) throws Exception {
        socket.setSoTimeout(300);
        InputStream in = socket.getInputStream();
        OutputStream out = socket.getOutputStream();
        while (true) {
            try {
                int read = in.read();
                if (read < 0) {
                    return;
                }
                if (read == '\n') {
                    out.write(PONG);
                }
            } catch (SocketTimeoutException timeout) {
                // The next turn.
            }
        }
    }

    static void select(Selector selector, ConcurrentLinkedQueue<SocketChannel> fresh) throws Exception {
        ByteBuffer request = ByteBuffer.allocate(4096);
        while (true) {
            selector.select(300);
            for (SocketChannel channel; (channel = fresh.poll()) != null; ) {
                channel.configureBlocking(false);
                channel.register(selector, SelectionKey.OP_READ);
            }
            for (SelectionKey key : selector.selectedKeys()) {
                SocketChannel channel = (SocketChannel) key.channel();
                request.clear();
                if (channel.read(request) < 0) {
                    channel.close();
                } else if (request.get(request.position() - 1) == '\n') {
                    channel.write(ByteBuffer.wrap(PONG));
                }
            }
            selector.selectedKeys().clear();
        }
    }
}
