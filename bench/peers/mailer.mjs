// Mails over SMTP by nodemailer, on connections that stay open.
import nodemailer from 'nodemailer';

const { MAIL_FROM: from, SMTP_CONNECTIONS, SMTP_PORT } = process.env;

const transport = nodemailer.createTransport({
  host: '127.0.0.1',
  port: Number(SMTP_PORT),
  ignoreTLS: true,
  pool: true,
  maxConnections: Number(SMTP_CONNECTIONS),
  maxMessages: Infinity,
});

const escape = text => text.replace(/[&<>"']/g, found => `&#${found.charCodeAt(0)};`);

const html = order => `<!doctype html>
<html lang="en">
  <body style="font-family: sans-serif; max-width: 36rem; margin: auto; padding: 1rem">
    <h1 style="font-size: 1.25rem">Thank you for your order</h1>
<p>Your order <strong>${order.id}</strong> is paid and confirmed.</p>
<table style="width: 100%; border-collapse: collapse">
${order.items.map(item => `  <tr>
    <td>${item.quantity} &times; ${escape(item.name)}</td>
    <td style="text-align: right">${item.unit_price} ${order.currency}</td>
  </tr>`).join('\n')}
  <tr>
    <th style="text-align: left">Total</th>
    <th style="text-align: right">${order.total} ${order.currency}</th>
  </tr>
</table>
  </body>
</html>
`;

// Resolves when the server has the mail.
export async function sendMail(order, kind, text) {
  const reference = `${kind}.${order.id}`;
  await transport.sendMail({
    from,
    to: order.email,
    subject: `Your order ${order.id} is confirmed`,
    text,
    html: html(order),
    messageId: `<${reference}@shop.example>`,
    headers: { 'Auto-Submitted': 'auto-generated', 'Content-Language': 'en' },
  });
  return reference;
}

export const closeMailer = () => transport.close();
